"""How the logit methods compute a parity case; see parity.methods for the form."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from kd.methods._classes import target_term
from kd.methods._standardise import standardise
from kd.methods.abkd import abkd_loss
from kd.methods.crld import Views, crld_losses
from kd.methods.dist import dist_loss
from kd.methods.dkd import dkd_loss
from kd.methods.hard_kd import hard_kd_loss
from kd.methods.kd import kd_loss
from kd.methods.kd_logit_std import kd_logit_std_loss
from kd.methods.nkd import nontarget_term
from kd.methods.normkd import normkd_loss
from kd.methods.rld import masked_correlation, sample_confidence
from kd.methods.sdd import cell_logits, sdd_loss
from kd.methods.tekap import tekap_loss
from kd.methods.token_kd import token_kd_loss
from kd.methods.ttm import ttm_loss
from kd.methods.wkd_l import transport_term
from kd.methods.wttm import wttm_loss

Inputs = Mapping[str, Tensor]
Params = Mapping[str, Any]
Adapter = Callable[[Inputs, Params], Tensor]


def pair(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the student's and the teacher's logits."""
    return inputs["student_logits"], inputs["teacher_logits"]


def dkd(inputs: Inputs, params: Params) -> Tensor:
    return dkd_loss(*pair(inputs), inputs["labels"], **{"alpha": 1.0, "beta": 8.0, "temperature": 4.0, **params})


def dist(inputs: Inputs, params: Params) -> Tensor:
    return dist_loss(*pair(inputs), **params)


def kd_logit_std(inputs: Inputs, params: Params) -> Tensor:
    return kd_logit_std_loss(*pair(inputs), params.get("temperature", 2.0))


def ttm(inputs: Inputs, params: Params) -> Tensor:
    return ttm_loss(*pair(inputs), params.get("l", 0.1))


def wttm(inputs: Inputs, params: Params) -> Tensor:
    return wttm_loss(*pair(inputs), params.get("l", 0.2))


def nkd(inputs: Inputs, params: Params) -> Tensor:
    rest = nontarget_term(*pair(inputs), inputs["labels"], params.get("temperature", 3.0))
    return target_term(*pair(inputs), inputs["labels"]) + params.get("gamma", 3.5) * rest


def normkd(inputs: Inputs, params: Params) -> Tensor:
    return normkd_loss(*pair(inputs), params.get("temperature_norm", 2.0))


def rld(inputs: Inputs, params: Params) -> Tensor:
    student, target = map(standardise, pair(inputs)) if params.get("logit_stand") else pair(inputs)
    scd = sample_confidence(student, target, inputs["labels"], params.get("alpha_temperature", 1.0))
    mcd = masked_correlation(student, target, inputs["labels"], params.get("temperature", 4.0))
    return params.get("alpha", 1.0) * scd + params.get("beta", 8.0) * mcd


def abkd(inputs: Inputs, params: Params) -> Tensor:
    return abkd_loss(*pair(inputs), **{"alpha": 0.8, "beta": 0.3, "temperature": 4.0, **params})


def tekap_l(inputs: Inputs, params: Params) -> Tensor:
    asked = {"temperature": 4.0, "noise_weight": 0.1, "augmented_weight": 0.8, **params}
    noise = inputs["noise"]
    assert len(noise) == asked.pop("perturbations", len(noise))
    return tekap_loss(*pair(inputs), noise, **asked)


def sdd(base: str, inputs: Inputs, params: Params) -> Tensor:
    asked = {"temperature": 4.0, **params}
    scales, form = asked.pop("scales", (1, 2, 4)), asked.pop("form", "released")

    def cells(network: str, scales: Sequence[int]) -> Tensor:
        weight, bias = (inputs.get(f"weights/{network}_fc.{name}") for name in ("weight", "bias"))
        assert weight is not None
        return cell_logits(inputs[f"{network}_feats.0"], weight, bias, scales, form)

    student, target, whole = cells("student", scales), cells("teacher", scales), cells("teacher", (1,))
    return sdd_loss(student, target, whole, inputs["labels"], base=base, **asked)


def wkd_l(inputs: Inputs, params: Params) -> Tensor:
    rounds = (
        params.get("temperature", 8.0),
        params.get("sinkhorn_lambda", 0.05),
        params.get("sinkhorn_iterations", 10),
    )
    cost = transport_term(*pair(inputs), inputs["labels"], inputs["cost_matrix"], *rounds)
    return target_term(*pair(inputs), inputs["labels"]) + params.get("gamma", 600.0) * cost


def crld(inputs: Inputs, params: Params) -> Tensor:
    weak, strong = ((inputs[f"student_logits_{view}"], inputs[f"teacher_logits_{view}"]) for view in ("weak", "strong"))
    confidences = (params.get("tau_weak", 0.9), params.get("tau_strong", 0.2))
    asked = (params.get("temperature", 4.0), *confidences, params.get("form", "released"))
    within, cross = crld_losses(Views(*weak, *strong), *asked)
    return params.get("within_view_weight", 2.0) * within + params.get("cross_view_weight", 0.5) * cross


def hard_kd(inputs: Inputs, params: Params) -> Tensor:
    return hard_kd_loss(*pair(inputs))


def token_kd(inputs: Inputs, params: Params) -> Tensor:
    asked = {"kind": "hard", "form": "deit", "temperature": 1.0, **params}
    alpha = asked.pop("alpha", 0.5)
    token = token_kd_loss(inputs["student_logits_distill"], inputs["teacher_logits"], **asked)
    return (1 - alpha) * F.cross_entropy(inputs["student_logits"], inputs["labels"]) + alpha * token


def timm_logit(inputs: Inputs, params: Params) -> Tensor:
    """The method kd at the weights that timm's task takes: 1 and 1, or what is left of 1 beside a given task weight."""
    task, distillation = params.get("task_loss_weight"), params.get("distill_loss_weight")
    if distillation is None:
        distillation = 1.0 if task is None else 1 - task
    ce = F.cross_entropy(inputs["student_logits"], inputs["labels"])
    return (1.0 if task is None else task) * ce + distillation * kd_loss(*pair(inputs), params.get("temperature", 1.0))


ADAPTERS: dict[str, Adapter] = {
    "abkd": abkd,
    "crld": crld,
    "dist": dist,
    "dkd": dkd,
    "hard_kd": hard_kd,
    "kd_logit_std": kd_logit_std,
    "nkd": nkd,
    "normkd": normkd,
    "rld": rld,
    "sdd_dkd": partial(sdd, "dkd"),
    "sdd_kd": partial(sdd, "kd"),
    "tekap_l": tekap_l,
    "timm_logit": timm_logit,
    "token_kd": token_kd,
    "ttm": ttm,
    "wkd_l": wkd_l,
    "wttm": wttm,
}

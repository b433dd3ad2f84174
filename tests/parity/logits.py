"""How the logit methods compute a parity case; see parity.methods for the form."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from kd.methods.dist import dist_loss
from kd.methods.dkd import dkd_loss
from kd.methods.kd_logit_std import kd_logit_std_loss
from kd.methods.ttm import ttm_loss
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


ADAPTERS: dict[str, Adapter] = {"dkd": dkd, "dist": dist, "kd_logit_std": kd_logit_std, "ttm": ttm, "wttm": wttm}

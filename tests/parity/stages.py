"""How the feature and relational methods since 2021 compute a parity case."""

from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from kd.methods._divergence import softened_kl
from kd.methods._features import pool_match
from kd.methods.ickd import ickd_loss
from kd.methods.mgd import Generator, mgd_loss
from kd.methods.nd import nd_loss
from kd.methods.ofa import ofa_loss
from kd.methods.semckd import Attention, semckd_loss
from kd.methods.srd import srd_loss
from kd.methods.vkd import vkd_loss
from kd.methods.wkd_f import wkd_f_loss
from parity.features import embeddings
from parity.methods import Adapter, Inputs, Params, feature_pairs, stages

WEIGHTS = "weights/"


def weights(inputs: Inputs) -> dict[str, Tensor]:
    """Return module parameters by their names."""
    return {name.removeprefix(WEIGHTS): tensor for name, tensor in inputs.items() if name.startswith(WEIGHTS)}


def ickd(inputs: Inputs, params: Params) -> Tensor:
    return ickd_loss(*feature_pairs(inputs))


def wkd_f(inputs: Inputs, params: Params) -> Tensor:
    (student,), (target,) = feature_pairs(inputs)
    return wkd_f_loss(student, target, **params)


def srd(inputs: Inputs, params: Params) -> Tensor:
    student, target = embeddings(inputs)
    embed = weights(inputs)
    projected = F.linear(student, embed["embed.weight"], embed["embed.bias"])
    representation = srd_loss(projected, target, params.get("exponent", 4.0), params.get("bn_eps", 1e-4))
    return representation + softened_kl(inputs["student_logits"], inputs["teacher_logits"], temperature=1.0)


def vkd(inputs: Inputs, params: Params) -> Tensor:
    student, target = embeddings(inputs)
    return params.get("weight", 1.0) * vkd_loss(F.linear(student, inputs["projection"]), target)


def mgd(inputs: Inputs, params: Params) -> Tensor:
    (student,), (target,) = feature_pairs(inputs)
    generator = Generator(student.shape[1], target.shape[1])
    generated = functional_call(generator, weights(inputs), (student, inputs["mask"]))
    return params.get("weight", 0.0012) * mgd_loss(generated, target)


def nd(inputs: Inputs, params: Params) -> Tensor:
    student, target = embeddings(inputs)
    return params.get("weight", 2.0) * nd_loss(student, target, inputs["class_means"], inputs["labels"])


def ofa(inputs: Inputs, params: Params) -> Tensor:
    return ofa_loss(inputs["student_logits"], inputs["teacher_logits"], inputs["labels"], **params)


def semckd(inputs: Inputs, params: Params) -> Tensor:
    student, target = feature_pairs(inputs)
    attention = Attention(len(student), len(target), len(student[0]), params.get("factor", 4))
    found = functional_call(attention, weights(inputs), (student, target))
    values = [stages(inputs, f"student_values.{i}") for i in range(len(student))]
    targets = [[pool_match(own, other)[1] for other in target] for own in student]
    return params.get("weight", 400.0) * semckd_loss(found, values, targets)


ADAPTERS: dict[str, Adapter] = {
    "ickd": ickd,
    "wkd_f": wkd_f,
    "srd": srd,
    "vkd": vkd,
    "mgd": mgd,
    "nd": nd,
    "ofa": ofa,
    "semckd": semckd,
}

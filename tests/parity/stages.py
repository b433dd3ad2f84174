"""How the feature and relational methods since 2021 compute a parity case."""

from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from kd.methods._divergence import softened_kl
from kd.methods.ickd import ickd_loss
from kd.methods.mgd import Generator, mgd_loss
from kd.methods.srd import srd_loss
from kd.methods.vkd import vkd_loss
from kd.methods.wkd_f import wkd_f_loss
from parity.features import embeddings
from parity.methods import Adapter, Inputs, Params, feature_pairs

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


ADAPTERS: dict[str, Adapter] = {"ickd": ickd, "wkd_f": wkd_f, "srd": srd, "vkd": vkd, "mgd": mgd}

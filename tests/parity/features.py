"""How the feature and relational methods compute a parity case."""

from torch import Tensor

from kd.methods.ab import ab_loss
from kd.methods.cat_kd import cat_loss
from kd.methods.cc import correlation_loss, neighbour_loss
from kd.methods.fsp import fsp_loss
from kd.methods.kdsvd import kdsvd_loss
from kd.methods.nst import nst_loss
from kd.methods.ofd import negative_mean, ofd_loss
from kd.methods.pkt import pkt_loss
from kd.methods.rkd import angle_loss, distance_loss
from kd.methods.sp import sp_loss
from kd.methods.vid import vid_loss
from parity.methods import Adapter, Inputs, Params, feature_pairs, stages


def embeddings(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the student's and the teacher's vectors."""
    return inputs["student_embedding"], inputs["teacher_embedding"]


def one_or_more(inputs: Inputs, name: str) -> list[Tensor]:
    """Return the input of that name, or name.0, name.1, ... in order."""
    return [inputs[name]] if name in inputs else stages(inputs, name)


def nst(inputs: Inputs, params: Params) -> Tensor:
    return nst_loss(*feature_pairs(inputs))


def sp(inputs: Inputs, params: Params) -> Tensor:
    return sp_loss(*feature_pairs(inputs))


def vid(inputs: Inputs, params: Params) -> Tensor:
    return vid_loss(*feature_pairs(inputs), one_or_more(inputs, "log_scale"), params.get("eps", 1e-5))


def pkt(inputs: Inputs, params: Params) -> Tensor:
    return pkt_loss(*embeddings(inputs), params.get("eps", 1e-7))


def fsp(inputs: Inputs, params: Params) -> Tensor:
    return fsp_loss(*feature_pairs(inputs))


def kdsvd(inputs: Inputs, params: Params) -> Tensor:
    return kdsvd_loss(*feature_pairs(inputs), params.get("k", 1))


def ab(inputs: Inputs, params: Params) -> Tensor:
    return ab_loss(*feature_pairs(inputs), params.get("margin", 1.0))


def ofd(inputs: Inputs, params: Params) -> Tensor:
    norms = zip(one_or_more(inputs, "bn_weight"), one_or_more(inputs, "bn_bias"), strict=True)
    return ofd_loss(*feature_pairs(inputs), [negative_mean(weight, bias) for weight, bias in norms])


def cc(inputs: Inputs, params: Params) -> Tensor:
    if params.get("form") == "paper":
        return correlation_loss(*embeddings(inputs), params.get("gamma", 0.4), params.get("order", 2))
    return neighbour_loss(*embeddings(inputs))


def rkd(inputs: Inputs, params: Params) -> Tensor:
    distance, angle = params.get("distance_weight", 25.0), params.get("angle_weight", 50.0)
    return distance * distance_loss(*embeddings(inputs)) + angle * angle_loss(*embeddings(inputs))


def cat_kd(inputs: Inputs, params: Params) -> Tensor:
    return cat_loss(*feature_pairs(inputs), params.get("cam_resolution", 2), params.get("normalize", True))


ADAPTERS: dict[str, Adapter] = {
    "nst": nst,
    "sp": sp,
    "vid": vid,
    "pkt": pkt,
    "fsp": fsp,
    "kdsvd": kdsvd,
    "ab": ab,
    "ofd": ofd,
    "cc": cc,
    "rkd": rkd,
    "cat_kd": cat_kd,
}

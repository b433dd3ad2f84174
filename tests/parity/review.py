"""How ReviewKD computes a parity case; its features are what the fusions put out."""

from torch import Tensor

from kd.methods.reviewkd import hcl_loss
from parity.methods import Adapter, Inputs, Params, feature_pairs


def reviewkd(inputs: Inputs, params: Params) -> Tensor:
    return hcl_loss(*feature_pairs(inputs))


ADAPTERS: dict[str, Adapter] = {"reviewkd": reviewkd}

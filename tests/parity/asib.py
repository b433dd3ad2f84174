"""ASIB's functions in the form of the parity cases."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from kd.asib.fusions.ib import IBMBM
from kd.asib.losses import ib_kl
from kd.asib.modules import SynergyHead

WEIGHTS = "weights/"


def _ib_kl(inputs: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    return params["beta"] * ib_kl(inputs["student_mu"], inputs["student_logvar"], "sum")


def _ib_mbm(inputs: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    query, tokens = inputs["student_query"], inputs["teacher_tokens"].unbind(dim=1)
    weights = {name.removeprefix(WEIGHTS): tensor for name, tensor in inputs.items() if name.startswith(WEIGHTS)}
    classes = len(weights["head.net.3.bias"])
    widths = [token.shape[1] for token in tokens]
    mbm = IBMBM(query.shape[1], widths, params["embed_dim"], params["n_heads"])
    modules = nn.ModuleDict({"mbm": mbm, "head": SynergyHead(params["embed_dim"], classes)})
    modules.load_state_dict(weights)
    modules.eval()
    code = modules["mbm"](query, tokens)
    logits = modules["head"](code.z)
    return logits.square().mean() + code.mu.square().mean() + code.logvar.square().mean()


ADAPTERS: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Tensor]] = {"ib_kl": _ib_kl, "ib_mbm": _ib_mbm}

"""Ways around torch's own, each with its reason; a test tells when one no longer pays (tests/unit/engine).

Most of them keep torch's compiler (torch._dynamo) from being imported, which takes a third of the start of every job:
networks may be compiled here, optimisers and counters never are.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

KERNELS = ("foreach", "fused", "capturable")
"""Options of torch's optimisers that say how a step is computed, and not which."""


class Watch(TorchDispatchMode):
    """A mode that sees every operator, of which torch does not ask its compiler whether to skip it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def unwrapped(method: Any) -> Any:
    """Return what torch wraps in order that its compiler, which the wrapper imports, leaves it alone."""
    return getattr(method, "__wrapped__", method)


class Eager(torch.optim.Optimizer):
    """An optimiser whose methods do not import the compiler."""

    add_param_group = unwrapped(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrapped(torch.optim.Optimizer.zero_grad)
    state_dict = unwrapped(torch.optim.Optimizer.state_dict)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, of another kind of device too: which kernels take the steps is this optimiser's own affair."""
        kernels = [{key: group[key] for key in KERNELS if key in group} for group in self.param_groups]
        groups = [{**saved, **own} for saved, own in zip(state_dict["param_groups"], kernels, strict=True)]
        unwrapped(torch.optim.Optimizer.load_state_dict)(self, {**state_dict, "param_groups": groups})


class SGD(Eager, torch.optim.SGD):
    """torch.optim.SGD without the compiler's import, whose fused kernel takes parameters that never moved before."""

    step = torch.no_grad()(unwrapped(torch.optim.SGD.step))

    def _init_group(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], momenta: list[Tensor | None]
    ) -> bool:
        """Gather what a step of a group takes, as torch's own does.

        Its fused kernel wants all momenta or none: it stops at parameters that a later stage sets free, and keeps
        whatever memory held where a first step overflowed. A momentum of 0 is what the first step starts from.
        """
        sparse = super()._init_group(group, params, grads, momenta)
        if group["fused"]:
            for place, momentum in enumerate(momenta):  # none at all where their factor is 0
                if momentum is None:
                    momenta[place] = torch.zeros_like(params[place])
        return sparse


class Adam(Eager, torch.optim.Adam):
    """torch.optim.Adam without the compiler's import."""

    step = torch.no_grad()(unwrapped(torch.optim.Adam.step))


class AdamW(Eager, torch.optim.AdamW):
    """torch.optim.AdamW without the compiler's import."""

    step = torch.no_grad()(unwrapped(torch.optim.AdamW.step))

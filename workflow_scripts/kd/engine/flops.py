"""Counting floating-point operations."""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import torch

from kd.engine.shortcuts import Watch
from kd.study.options import WINOGRAD


class FlopCounter(Watch):
    """Counts the operations of what runs in it, each by torch's formula for it; a convolution's whatever its kernel.

    torch's own FlopCounterMode gives the same number, attention on a CPU aside, which it leaves out. But its first
    operation imports torch's compiler, a third of a job's start, and it counts by module, which nobody asks for here.
    """

    def __init__(self) -> None:
        # imported here because an evaluation, which counts nothing, starts sooner without it
        from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop, shape_wrapper

        super().__init__()
        attention = "_scaled_dot_product_flash_attention_for_cpu"  # of the kinds of attention, the one torch leaves out
        self._formulas: dict[Any, Callable[..., int]] = {
            **flop_registry,
            getattr(torch.ops.aten, attention): sdpa_flop,
            getattr(torch.ops.aten, f"{attention}_backward"): sdpa_backward_flop,
        }
        self._wrapped = shape_wrapper
        self.by_operator: Counter[Any] = Counter()

    def __enter__(self) -> Self:
        """Begin to count."""
        if native := sys.modules.get(WINOGRAD):  # there are no operators of its own before somebody takes it
            self._formulas |= {operator: self._wrapped(count) for operator, count in native.flop_formulas().items()}
        entered: Self = super().__enter__()
        return entered

    @property
    def total(self) -> int:
        """Return the operations of everything that ran in it."""
        return sum(self.by_operator.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it; what consists of others (a linear layer) counts by those."""
        kwargs = kwargs or {}
        formula = self._formulas.get(func.overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        found = func(*args, **kwargs)
        if formula is not None:
            self.by_operator[func.overloadpacket] += formula(*args, **kwargs, out_val=found)
        return found

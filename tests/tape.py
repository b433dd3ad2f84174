"""Graphs of steps without a GPU: what one records is every operator with its tensors, and a replay calls those alone.

As a CUDA graph it knows nothing of Python: a number of the host, a branch or a tensor that lies elsewhere by now stays
as it was when the step was recorded. So weights that come out right show that a step holds nothing of the host.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Keeps the operators that run under it, and everything that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    @torch.no_grad()
    def play(self) -> None:
        """Call every operator again and write what it returns to where it was written before."""
        for func, args, kwargs, found in self.calls:
            for old, new in zip(tree_leaves(found), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and not _shares(old, new):
                    old.copy_(new)


def _shares(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory, as views and what is changed in place do."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class TapedGraph:
    """A kd.engine.capture.Graph on the CPU, where a step cannot be recorded without being taken.

    So the replay that follows a recording does nothing: together they take the step once.
    """

    played: int = 0
    """How many steps tapes have taken, of all graphs."""

    def __init__(self, device: torch.device) -> None:
        self._tape, self._taken = Tape(), False

    def run(self, step: Callable[[], None]) -> None:
        """Take a step as it is."""
        step()

    def waits(self, step: Callable[[], None]) -> None:
        """Take a step as it is; what waits for a device is seen by `operators`."""
        step()

    def record(self, step: Callable[[], None]) -> None:
        """Take a step and keep its operators."""
        with self._tape:
            step()
        self._taken = True

    def replay(self) -> None:
        """Take the step that was recorded."""
        if self._taken:
            self._taken = False
            return
        self._tape.play()
        TapedGraph.played += 1

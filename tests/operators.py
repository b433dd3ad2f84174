"""What a function asks of torch: every operator with its numbers, and those that a GPU cannot replay in a graph."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {
    "_linalg_eigh",
    "_linalg_svd",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "linalg_eig",
    "linalg_lstsq",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
"""Operators for which the host waits: they tell it a value, or a size that depends on values, or how they went."""


class Operators(TorchDispatchMode):
    """Records the operators that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        """Each operator with every argument: shape and type of a tensor, a number or a text as it is."""
        self.unfit: list[str] = []
        """Those of them that no graph can hold: what waits for a result, and what is copied from the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "profiler":  # marks for whoever measures, with handles that are new each time
            return func(*args, **(kwargs or {}))
        name, given = func.overloadpacket.__name__, {**dict(enumerate(args)), **(kwargs or {})}
        said = ", ".join(f"{key}={_said(value)}" for key, value in given.items())
        self.calls.append(f"{name}({said})")
        if _is_unfit(name, args, kwargs or {}):
            self.unfit.append(self.calls[-1])
        return func(*args, **(kwargs or {}))


def _is_unfit(name: str, args: Any, kwargs: Any) -> bool:
    if name in WAITING:
        return True
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in {"index", "index_put", "index_put_", "_index_put_impl_"}:
        return any(isinstance(one, Tensor) and one.dtype in {torch.bool, torch.uint8} for one in args[1])
    if name == "lift_fresh":  # what torch.tensor makes of numbers of the host
        return True
    devices = {leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    return name in {"_to_copy", "copy_"} and len(devices | {kwargs.get("device") or next(iter(devices))}) > 1


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_said, value))}]"
    return repr(value)


def recorded(function: Callable[[], Any]) -> Operators:
    """Return the operators of a call."""
    with Operators() as found:
        function()
    return found


def differences(first: Operators, second: Operators) -> Iterator[str]:
    """Yield where two records differ: numbers that a graph would freeze."""
    for one, other in zip(first.calls, second.calls, strict=False):
        if one != other:
            yield f"{one} became {other}"
    if len(first.calls) != len(second.calls):
        yield f"{len(first.calls)} operators became {len(second.calls)}"

"""The history of a training: one row per epoch, kept in the checkpoint."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kd.tools.errors import DivergenceError

Row = dict[str, Any]

NOTHING = -0.0
"""What changes no number that it is added to, not even the sign of a zero."""


@dataclass
class Result:
    """What a training leaves."""

    rows: list[Row] = field(default_factory=list)
    last: dict[str, Tensor] = field(default_factory=dict)
    """The student's weights after the last epoch (averaged ones with EMA); empty in a pre-stage."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The student's weights at the best validation accuracy, the earliest of equals."""
    best_epoch: int = 0
    best_top1: float = -1.0
    seconds: float = 0.0
    flops: float = 0.0
    optimizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Optimiser state of each update, for the next job of a chain."""

    def state_dict(self) -> dict[str, Any]:
        """Return what there is of it before the last epoch, for a checkpoint."""
        return {name: getattr(self, name) for name in ("rows", "best", "best_epoch", "best_top1", "flops")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        vars(self).update(state)


class Sums:
    """Sums over an epoch that stay on the device until they are read, so that no step waits for the host.

    They stay in the memory where they began, and a step adds to them in the same way whatever was before.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        """By the names that are added together, (names + 1,): what they come to, and at last the items behind it."""
        self._bad_rows: dict[tuple[str, ...], Tensor] = {}
        self._one = torch.ones((), device=device)

    def begin(self) -> None:
        """Set everything to nothing."""
        for values in self._sums.values():
            values.fill_(NOTHING)
        for rows in self._bad_rows.values():
            rows.fill_(torch.inf)

    def add(self, means: Mapping[str, Tensor], items: int) -> None:
        """Add means over so many items, scalars by name."""
        names = tuple(means)
        added = torch.stack([*(value.detach() for value in means.values()), self._one]).double() * items
        if names not in self._sums:
            self._sums[names] = torch.full_like(added, NOTHING)
        self._sums[names].add_(added)

    def watch(self, values: Mapping[str, Tensor], row: Tensor) -> None:
        """Remember the first row, (1,), at which a loss was not finite, scalars by name."""
        names = tuple(values)
        finite = torch.stack([value.detach() for value in values.values()]).isfinite()
        found = torch.where(finite, torch.inf, row.double())
        if names not in self._bad_rows:
            self._bad_rows[names] = torch.full_like(found, torch.inf)
        self._bad_rows[names].copy_(torch.minimum(self._bad_rows[names], found))

    def means(self) -> dict[str, float]:
        """Read the means of the epoch."""
        found: dict[str, float] = {}
        for names, values in self._sums.items():
            *sums, items = values.tolist()
            found |= {name: value / items for name, value in zip(names, sums, strict=True)}
        return found

    def check(self, epoch: int, steps: int) -> None:
        """Raise a DivergenceError if a loss was not finite in this epoch."""
        for names, rows in self._bad_rows.items():
            for name, row in zip(names, rows.tolist(), strict=True):
                if row < float("inf"):
                    raise DivergenceError(
                        f"training diverged: loss {name} was not finite at step {int(row) + 1} of {steps} "
                        f"in epoch {epoch}; lower recipe.lr or set recipe.grad_clip"
                    )


class Clock:
    """Seconds of training, carried over interruptions; it can stand still while another training has the machine."""

    def __init__(self, before: float = 0.0) -> None:
        self._before = before
        self._start: float | None = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds so far, those before an interruption included."""
        return self._before + (0.0 if self._start is None else time.perf_counter() - self._start)

    def pause(self) -> None:
        """Stand still."""
        self._before, self._start = self.seconds(), None

    def go_on(self, missed: float = 0.0) -> None:
        """Run again, after `missed` seconds that count although the clock stood still."""
        self._before, self._start = self.seconds() + missed, time.perf_counter()

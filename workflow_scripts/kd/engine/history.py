"""The history of a training: one row per epoch, kept in the checkpoint."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kd.tools.errors import DivergenceError

Row = dict[str, Any]


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
    """Sums over an epoch that stay on the device until they are read, so that no step waits for the host."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._values: dict[str, Tensor] = {}
        self._images: dict[str, int] = {}
        self._bad_step: dict[str, Tensor] = {}

    def add(self, name: str, mean: Tensor, images: int) -> None:
        """Add a batch mean over so many images."""
        value = mean.detach().double() * images
        self._values[name] = self._values[name] + value if name in self._values else value
        self._images[name] = self._images.get(name, 0) + images

    def watch(self, name: str, value: Tensor, step: int) -> None:
        """Remember the first step at which a loss was not finite."""
        here = torch.where(torch.isfinite(value.detach()), torch.inf, float(step))
        self._bad_step[name] = torch.minimum(self._bad_step[name], here) if name in self._bad_step else here

    def means(self) -> dict[str, float]:
        """Read the means of the epoch."""
        return {name: float(value) / self._images[name] for name, value in self._values.items()}

    def check(self, epoch: int, steps: int) -> None:
        """Raise a DivergenceError if a loss was not finite in this epoch."""
        for name, bad in self._bad_step.items():
            if (step := float(bad)) < float("inf"):
                raise DivergenceError(
                    f"training diverged: loss {name} was not finite at step {int(step) + 1} of {steps} "
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

"""What changes from step to step and is known before: learning rate, clipping, averaging, and what methods schedule."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kd.engine.optim import clip_norm
from kd.methods.contract import Method, Progress, Scheduled
from kd.schema.config import Recipe


class Timetable:
    """The columns of one epoch, filled ahead by the host: (steps,) float64, a row a step.

    So nothing in a step depends on a number that the host works out in between: a step knows its row, and that is all.
    float64 keeps the numbers as they were worked out; whoever computes with them in float32 rounds them once. The same
    numbers stand in `host`, for steps that the host drives: reading a tensor would wait for its device.
    """

    def __init__(
        self, recipe: Recipe, method: Method, done: Sequence[Progress], before: float, factor: Callable[[float], float]
    ) -> None:
        """Fill the columns for steps that begin at `done` epochs of a stage.

        `before` are the epochs that its schedules ran over before the stage, `factor` is the learning rate at a number
        of epochs of the stage, as a share of the recipe's.
        """
        self.done, self._method = done, method
        epochs = [progress.epoch for progress in done]
        self.host: dict[str, list[float]] = {
            "lr": [factor(epoch) for epoch in epochs],
            "max_norm": [clip_norm(recipe, (before + epoch) / recipe.epochs) for epoch in epochs],
            "ema_decay": [ema_decay(recipe, epoch) for epoch in epochs],
        }
        self.lr, self.max_norm, self.ema_decay = map(_column, self.host.values())
        self._schedules = schedules(method, done)
        self._weights: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.done)

    def weight(self, term: str) -> Tensor:
        """Return the column of a term's weight; which terms there are is known once a step has been taken."""
        if term not in self._weights:
            self._weights[term] = _column(self.weights(term))
        return self._weights[term]

    def weights(self, term: str) -> list[float]:
        """Return the same column as the host reads it."""
        key = f"weight of {term}"
        if key not in self.host:
            self.host[key] = [self._method.weight(term, progress) for progress in self.done]
        return self.host[key]

    def schedule(self, row: int) -> dict[str, Tensor]:
        """Return the scalars that the method's own schedules have for a step."""
        return {name: column[row] for name, column in self._schedules.items()}


def schedules(method: Method, done: Sequence[Progress]) -> dict[str, Tensor]:
    """Return the columns of what a method's loss reads of its own schedules, by name; most have none."""
    found = [method.schedule(progress) for progress in done] if isinstance(method, Scheduled) else []
    return {name: _column([each[name] for each in found]) for name in (found[0] if found else ())}


def ema_decay(recipe: Recipe, epoch: float) -> float:
    """Return the decay at a fractional number of epochs done: a line from ema_start_decay over ema_warmup_epochs."""
    full = recipe.ema_decay or 0.0
    if recipe.ema_start_decay is None:
        return full
    return recipe.ema_start_decay + (full - recipe.ema_start_decay) * min(1.0, epoch / recipe.ema_warmup_epochs)


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)

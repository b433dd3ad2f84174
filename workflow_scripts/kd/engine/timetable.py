"""What changes from step to step and is known before: learning rate, clipping, averaging, the weights of terms."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kd.engine.ema import ema_decay
from kd.engine.optim import clip_norm
from kd.methods.contract import Progress
from kd.schema.config import Recipe

Weigh = Callable[[str, Progress], float]
"""Returns the weight of a term by its name (Method.weight)."""


class Timetable:
    """The columns of one epoch, filled ahead by the host: (steps,) float64, a row a step.

    So nothing in a step depends on a number that the host works out in between: a step knows its row, and that is all.
    float64 keeps the numbers as they were worked out; whoever computes with them in float32 rounds them once.
    """

    def __init__(
        self, recipe: Recipe, weigh: Weigh, done: Sequence[Progress], before: float, factor: Callable[[float], float]
    ) -> None:
        """Fill the columns for steps that begin at `done` epochs of a stage.

        `before` are the epochs that its schedules ran over before the stage, `factor` is the learning rate at a number
        of epochs of the stage, as a share of the recipe's.
        """
        self.done, self._weigh = done, weigh
        epochs = [progress.epoch for progress in done]
        self.lr = _column([factor(epoch) for epoch in epochs])
        self.max_norm = _column([clip_norm(recipe, (before + epoch) / recipe.epochs) for epoch in epochs])
        self.ema_decay = _column([ema_decay(recipe, epoch) for epoch in epochs])
        self._weights: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.done)

    def weight(self, term: str) -> Tensor:
        """Return the column of a term's weight; which terms there are is known once a step has been taken."""
        if term not in self._weights:
            self._weights[term] = _column([self._weigh(term, progress) for progress in self.done])
        return self._weights[term]


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)

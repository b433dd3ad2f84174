"""What changes from step to step and is known before: learning rate, clipping, averaging, and what methods schedule."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kd.engine.optim import clip_norm
from kd.methods.contract import Method, Progress, Scheduled
from kd.schema.config import Recipe

LR, MAX_NORM, EMA_STEP = "lr", "max_norm", "ema_step"
"""Learning rate as a share of the recipe's, largest gradient norm, step of averaged weights towards the trained."""


class Timetable:
    """The scalars of an epoch's steps, a row a step, filled ahead by the host and moved to the device at once.

    A step reads the row that `row`, (1,) on the device, says, and moves `row` on: so nothing in it depends on a number
    that the host works out in between, and a graph of it can be replayed. Memory stays where it is from epoch to epoch.
    float64 keeps the numbers as they were worked out; whoever computes with them in float32 rounds them once.
    """

    def __init__(self, recipe: Recipe, method: Method, device: torch.device) -> None:
        self._recipe, self._method, self._device = recipe, method, device
        self.row = torch.zeros(1, dtype=torch.int64, device=device)
        self.host: dict[str, list[float]] = {}
        """The same numbers by name: for what the host drives, because reading a tensor would wait for its device."""
        self._terms: list[str] = []
        self._table = torch.empty(0, 0, dtype=torch.float64, device=device)
        self._now: dict[str, Tensor] = {}

    def fill(self, done: Sequence[Progress], before: float, factor: Callable[[float], float]) -> None:
        """Write the rows of an epoch whose steps begin at `done` epochs of a stage, and go to the first.

        `before` are the epochs that its schedules ran over before the stage, `factor` is the learning rate at a number
        of epochs of the stage, as a share of the recipe's.
        """
        recipe, epochs = self._recipe, [progress.epoch for progress in done]
        self.done = done
        self._schedules = schedules(self._method, done)
        self.host = {
            LR: [factor(epoch) for epoch in epochs],
            MAX_NORM: [clip_norm(recipe, (before + epoch) / recipe.epochs) for epoch in epochs],
            EMA_STEP: [1 - ema_decay(recipe, epoch) for epoch in epochs],
            **{_schedule_of(name): column.tolist() for name, column in self._schedules.items()},
            **{_weight_of(term): self._weights(term) for term in self._terms},
        }
        self._move()
        self.row.zero_()

    def _move(self) -> None:
        table = torch.tensor(list(self.host.values()), dtype=torch.float64)
        if table.shape == self._table.shape:
            self._table.copy_(table)
        else:
            self._table = table.to(self._device)

    @property
    def place(self) -> int:
        """Where its numbers are: another value once they are elsewhere than a graph of a step would look for them."""
        return self._table.data_ptr()

    def read(self) -> None:
        """Take the numbers of the row for a step that begins."""
        # indexing by a tensor without a dimension would be read by the host
        values = self._table.index_select(1, self.row).squeeze(1)
        self._now = dict(zip(self.host, values.unbind(), strict=True))

    def advance(self) -> None:
        """Go to the next row."""
        self.row.add_(1)

    def __getitem__(self, name: str) -> Tensor:
        """Return a number of the step under way, a scalar in float64."""
        return self._now[name]

    def weight(self, term: str) -> Tensor:
        """Return the weight of a term in the step under way; which terms there are is known once one was taken."""
        if term not in self._terms:
            self._terms.append(term)
            self.host[_weight_of(term)] = self._weights(term)
            self._move()
            self.read()
        return self._now[_weight_of(term)]

    def schedule(self) -> dict[str, Tensor]:
        """Return the scalars that the method's own schedules have for the step under way."""
        return {name: self._now[_schedule_of(name)] for name in self._schedules}

    def _weights(self, term: str) -> list[float]:
        return [self._method.weight(term, progress) for progress in self.done]


def _weight_of(term: str) -> str:
    return f"weight of {term}"


def _schedule_of(name: str) -> str:
    return f"schedule of {name}"


def schedules(method: Method, done: Sequence[Progress]) -> dict[str, Tensor]:
    """Return the columns of what a method's loss reads of its own schedules, by name; most have none."""
    found = [method.schedule(progress) for progress in done] if isinstance(method, Scheduled) else []
    names = found[0] if found else ()
    return {name: torch.tensor([each[name] for each in found], dtype=torch.float64) for name in names}


def ema_decay(recipe: Recipe, epoch: float) -> float:
    """Return the decay at a fractional number of epochs done: a line from ema_start_decay over ema_warmup_epochs."""
    full = recipe.ema_decay or 0.0
    if recipe.ema_start_decay is None:
        return full
    return recipe.ema_start_decay + (full - recipe.ema_start_decay) * min(1.0, epoch / recipe.ema_warmup_epochs)

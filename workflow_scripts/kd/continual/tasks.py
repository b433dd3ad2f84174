"""Which classes each task brings, which images it is trained on, which earlier ones are replayed.

Everything here follows from the run's seed, so that nothing of it needs to be carried from task to task.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from kd.data.store import Batch, ImageStore
from kd.engine.data import Data
from kd.engine.seeds import derived_seed
from kd.tools.errors import UserError

LEAST = 2  # classes a task must bring: among fewer there is nothing to learn


@dataclass(frozen=True)
class Tasks:
    """The classes in the order in which they are learnt, cut into tasks; output k of a network is class `order[k]`."""

    order: tuple[int, ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def ends(self) -> tuple[int, ...]:
        """Return how many classes have been seen after each task."""
        return tuple(accumulate(self.sizes))

    def seen(self, task: int) -> int:
        """Return how many classes have been seen after a task (from 1); 0 after task 0."""
        return sum(self.sizes[:task])

    def classes(self, task: int) -> tuple[int, ...]:
        """Return the labels that a task (from 1) brings."""
        return self.order[self.seen(task - 1) : self.seen(task)]

    def outputs(self, labels: Tensor) -> Tensor:
        """Return the output that stands for each label (N,)."""
        return torch.tensor(np.argsort(self.order), device=labels.device)[labels]


def make_tasks(num_classes: int, num_tasks: int, class_order: str | Sequence[int], seed: int) -> Tasks:
    """Cut the classes into tasks: as even as possible, earlier tasks get what is left over.

    Errors: UserError for more tasks than there are pairs of classes, and for an order of other classes.
    """
    if num_classes < LEAST * num_tasks:
        raise UserError(
            f"continual.num_tasks: {num_classes} classes are enough for {num_classes // LEAST} tasks of {LEAST}, "
            f"found {num_tasks}"
        )
    if class_order == "seeded":
        # ranks of uniform draws, which no numpy release changes
        order = np.argsort(np.random.default_rng([seed, 3]).random(num_classes), kind="stable").tolist()
    else:
        order = list(range(num_classes)) if class_order == "natural" else [int(label) for label in class_order]
    if len(order) != num_classes:
        raise UserError(f"continual.class_order lists {len(order)} labels, the data set has {num_classes} classes")
    sizes = [num_classes // num_tasks + (task < num_classes % num_tasks) for task in range(num_tasks)]
    return Tasks(tuple(order), tuple(sizes))


class Part(ImageStore):
    """Some images of a store under new labels; position p is position `positions[p]` there, which may occur twice."""

    def __init__(self, store: ImageStore, positions: Tensor, labels: Tensor) -> None:
        self.device = store.device
        self.positions = positions.cpu()
        self.labels = labels.to(store.device)[positions.to(store.device)]
        self._store = store

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def resident(self) -> bool:
        """Whether the images live on the device."""
        return self._store.resident

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield (images uint8 (B, 3, H, W), labels (B,), positions in this part (B,)) on the device."""
        own = order.to(self.device).split(batch_size)
        images = self._store.batches(self.positions[order.cpu()], batch_size)
        for (batch, _, _), positions in zip(images, own, strict=True):
            yield batch, self.labels[positions], positions


def kept_images(outputs: Tensor, old: int, capacity: int, seed: int) -> Tensor:
    """Return the positions of at most `capacity` images that are kept of the first `old` classes.

    `outputs` (N,) says which class each training image is of. Class c keeps the first ceil((capacity - c) / old) of a
    seeded ranking of its own, so all classes keep as many, up to one, and what is kept later is part of what was kept
    before. First images of all classes come first: any beginning of the result is as balanced.
    """
    ranked: list[tuple[int, int, int]] = []
    for c in range(old):
        images = (outputs.cpu() == c).nonzero().squeeze(1)
        draws = torch.Generator().manual_seed(derived_seed(seed, f"replay/{c}"))
        quota = max(0, -(-(capacity - c) // old))
        chosen = images[torch.randperm(len(images), generator=draws)][:quota]
        ranked += [(rank, c, position) for rank, position in enumerate(chosen.tolist())]
    return torch.tensor([position for _, _, position in sorted(ranked)], dtype=torch.int64)


def replayed(kept: Tensor, own: int, ratio: float | None) -> Tensor:
    """Return what an epoch replays beside a task's `own` images: all that is kept, or `ratio` times as many as those.

    More than there are come again, as often as each other up to one; fewer are the balanced beginning of them.
    """
    if ratio is None or len(kept) == 0:
        return kept
    return kept[torch.arange(round(ratio * own)) % len(kept)]


def task_data(data: Data, tasks: Tasks, task: int, capacity: int, ratio: float | None, seed: int) -> Data:
    """Return what a task (from 1) is trained on, its own and replayed images, and validated on: all seen classes."""
    old, seen = tasks.seen(task - 1), tasks.seen(task)
    outputs = tasks.outputs(data.train.labels)
    own = ((outputs >= old) & (outputs < seen)).nonzero().squeeze(1).cpu()
    again = replayed(kept_images(outputs, old, capacity, seed), len(own), ratio)
    train = Part(data.train, torch.cat([own, again]), outputs)
    return replace(data, train=train, validation=seen_part(data.validation, tasks, seen), num_classes=seen)


def balanced_data(data: Data, tasks: Tasks, task: int, capacity: int, seed: int) -> Data:
    """Return what a task is fine-tuned on afterwards: its own images and every kept one, once each."""
    return task_data(data, tasks, task, capacity, None, seed)


def seen_part(store: ImageStore, tasks: Tasks, seen: int) -> Part:
    """Return the images of the first `seen` classes, in the store's order, labelled by output."""
    outputs = tasks.outputs(store.labels)
    return Part(store, (outputs < seen).nonzero().squeeze(1).cpu(), outputs)

"""The batches of an epoch laid ready on the device, so that a step takes its own without asking the host."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from kd.data.store import Batch as Stored
from kd.data.wants import Wants
from kd.engine.data import Data
from kd.engine.draws import LATE, BatchDraws, on_device
from kd.methods.contract import Batch
from kd.schema.config import Recipe

AT_ONCE = 4 * 2**20
"""Bytes of images that are cropped, flipped and coloured together: more only take more memory."""
ROOM = 2**30
"""Bytes of images that may lie ready; where an epoch has more, it is laid out in parts."""


class Source(Protocol):
    """What draws an epoch and makes its batches: a feed."""

    data: Data
    wants: Wants
    recipe: Recipe

    @property
    def group(self) -> int:
        """Return how many images an item has."""

    @property
    def views(self) -> list[str]:
        """Return the names of the further views."""

    def draw_epoch(self) -> tuple[Tensor, list[BatchDraws]]:
        """Return positions of an epoch's images in order, and what happens to each batch."""

    def change(self, images: Tensor, drawn: BatchDraws) -> dict[str, Tensor]:
        """Return by view what becomes of uint8 images in advance."""

    def finish(self, changed: Mapping[str, Tensor], labels: Tensor, positions: Tensor, drawn: BatchDraws) -> Batch:
        """Return the batch that networks see, of what `change` made of its images."""


class Tray:
    """Holds what batches are made of, in memory that stays where it is: a graph of a step finds the next batch there.

    Images lie as uint8, with everything done to them that can be done in advance; what was drawn for the rest lies
    beside them. `serve` is a function of these tensors alone, one of which says whose turn it is.
    """

    def __init__(self, feed: Source, device: torch.device) -> None:
        self._feed, self._device = feed, device
        self._turn = torch.zeros(1, dtype=torch.int64, device=device)
        self._images: dict[str, Tensor] = {}
        """(images of the steps, 3, H, W) uint8 by view."""
        self._beside: dict[str, Tensor] = {}
        """(images of the steps, ...) labels, positions and the late of what was drawn for images, by name."""
        self._by_batch: dict[str, Tensor] = {}
        """(steps, ...) what was drawn for batches, by name."""

        self.place = 0
        """Another number once something lies elsewhere than a graph of a step would look for it."""

    @property
    def size(self) -> int:
        """Return how many images a full batch has."""
        return self._feed.recipe.batch_size * self._feed.group

    def epoch(self) -> Iterator[int]:
        """Draw an epoch and lay its batches out; yield of each, once it is there, how many images it has."""
        order, drawn = self._feed.draw_epoch()
        sizes = [len(part) for part in order.split(self.size)]
        by_image, by_batch = on_device(drawn, self._device)
        together, room = self._rooms(len(sizes))
        source = self._feed.data.train.batches(order, together * self.size)
        for first in range(0, len(sizes), room):
            last = min(first + room, len(sizes))
            for step in range(first, last, together):
                self._lay(next(source), step, step - first, room, by_image)
            for name, values in by_batch.items():
                self._put(self._by_batch, name, values[first:last], room)
            self._turn.zero_()
            yield from sizes[first:last]

    def _rooms(self, steps: int) -> tuple[int, int]:
        """Return for how many steps images are changed together, and for how many they lie ready."""
        if not self._feed.data.train.resident:
            return 1, 1  # whoever reads ahead of the steps does so batch by batch
        batch = self.size * 3 * self._feed.data.image_size**2 * (1 + len(self._feed.wants.views))
        together = min(steps, max(1, AT_ONCE // batch))
        rounds = min(-(-steps // together), max(1, ROOM // (together * batch)))
        return together, rounds * together

    def _lay(self, read: Stored, step: int, place: int, room: int, by_image: Mapping[str, Tensor]) -> None:
        """Change the images of some steps, and lay them and what is beside them from a place on."""
        images, labels, positions = read
        rows = slice(step * self.size, step * self.size + len(labels))
        drawn = {name: values[rows] for name, values in by_image.items()}
        changed = self._feed.change(images, BatchDraws.of(drawn, self._feed.views))
        for view, values in changed.items():
            self._put(self._images, view, values, room * self.size, place * self.size)
        late = {name: values for name, values in drawn.items() if name.rpartition("/")[2] in LATE}
        for name, values in {"labels": labels, "positions": positions, **late}.items():
            self._put(self._beside, name, values, room * self.size, place * self.size)

    def _put(self, held: dict[str, Tensor], name: str, values: Tensor, room: int, place: int = 0) -> None:
        if name not in held or len(held[name]) != room:
            held[name] = values.new_zeros((room, *values.shape[1:]))
            self.place += 1
        held[name][place : place + len(values)] = values

    def serve(self, size: int) -> Batch:
        """Return the next batch, of so many images, and go on to the one after it."""
        images, beside = (
            {name: self._next(values.unflatten(0, (-1, self.size)))[:size] for name, values in held.items()}
            for held in (self._images, self._beside)
        )
        drawn = {**beside, **{name: self._next(values) for name, values in self._by_batch.items()}}
        self._turn.add_(1)
        return self._feed.finish(images, beside["labels"], beside["positions"], BatchDraws.of(drawn, self._feed.views))

    def _next(self, values: Tensor) -> Tensor:
        # indexing by a tensor without a dimension would be read by the host
        return values.index_select(0, self._turn).squeeze(0)

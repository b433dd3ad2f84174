"""The batches of a training: which images, how they are changed, and what the method asks for beside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kd.data import groups
from kd.data.augment import Augmenter
from kd.data.wants import Wants
from kd.engine.data import Data
from kd.engine.draws import IMAGES, BatchDraws
from kd.engine.seeds import derived_seed
from kd.engine.tray import Tray
from kd.methods.contract import Batch, Method, Prepares
from kd.schema.config import RandAugment, Recipe
from kd.study.options import MIXING, option


class Feed:
    """Serves a stage's batches, all draws from generators of its own and made at the start of an epoch.

    Order and augmentation are the same for every method of a seed; groups, further views and what a method draws
    to prepare batches come from a third stream, so that a method that wants them changes nothing for the others.
    """

    most: int | None = None
    """How many batches an epoch has at most, where it is not to see all images."""

    def __init__(
        self, data: Data, method: Method, wants: Wants, seed: int, teacher_logits: Tensor | None = None
    ) -> None:
        self.data, self.method, self.wants = data, method, wants
        self.teacher_logits = teacher_logits
        self._streams = {
            purpose: torch.Generator().manual_seed(derived_seed(seed, purpose))
            for purpose in ("order", "augmentation", "method images")
        }
        self._pool = self._draw_pool(seed)

    def enter(self, recipe: Recipe, replayable: bool = False) -> None:
        """Take a stage's recipe; where steps are `replayable`, batches are laid out on a tray."""
        self.recipe = recipe
        self.tray = Tray(self, self.data.train.device) if replayable else None
        settings, normal = recipe.augmentation, self.data.augmenter
        self._augmenters = {IMAGES: normal}
        """By view; the images themselves come first."""
        for view in self.wants.views:
            strong = RandAugment(ops=view.ops, magnitude=view.magnitude)
            changed = settings.model_copy(update={"randaugment": strong})
            self._augmenters[view.name] = Augmenter(changed, normal.mean, normal.std, view.cutout)

    @property
    def views(self) -> list[str]:
        """Return the names of the further views."""
        return [view.name for view in self.wants.views]

    @property
    def steps(self) -> int:
        """Return how many batches an epoch has: as many for groups of images as for images."""
        images, size = len(self.data.train), self.recipe.batch_size
        # BatchNorm has no statistics over a single value, so a last batch of one image is left out.
        steps = images // size if images % size == 1 else -(-images // size)
        return steps if self.most is None else min(steps, self.most)

    @property
    def last(self) -> int:
        """Return how many items the last batch of an epoch has; groups that are drawn anew fill it."""
        wanted, size = self.wants.groups, self.recipe.batch_size
        if wanted is not None and wanted.kind != "same_class":
            return size
        return min(len(self.data.train), self.steps * size) - (self.steps - 1) * size

    def serves_the_same(self, other: "Feed") -> bool:
        """Whether the next epoch of both is the same batches: images of one stream, and nothing beside them."""
        keys = ("batch_size", "augmentation", "mixup_alpha", "cutmix_alpha", "label_smoothing", "teacher_view")
        plain = not any(
            feed.wants.groups or feed.wants.views or feed.wants.fixed_teacher or isinstance(feed.method, Prepares)
            for feed in (self, other)
        )
        same_recipe = all(getattr(self.recipe, key) == getattr(other.recipe, key) for key in keys)
        mine, theirs = self.state_dict(), other.state_dict()
        same_place = all(torch.equal(mine[stream], theirs[stream]) for stream in ("order", "augmentation"))
        return plain and same_recipe and same_place

    @property
    def group(self) -> int:
        """Return how many images an item has."""
        wanted = self.wants.groups
        return 1 if wanted is None or wanted.kind == "balanced" else wanted.size

    def epoch(self) -> Iterator[Batch]:
        """Draw everything of the next epoch, then yield its batches."""
        if self.tray is not None:
            yield from map(self.tray.serve, self.tray.epoch())
            return
        order, draws = self.draw_epoch()
        served = self.data.train.batches(order, self.recipe.batch_size * self.group)
        for (images, labels, positions), drawn in zip(served, draws, strict=True):
            yield self.finish(self.change(images, drawn), labels, positions, drawn)

    def draw_epoch(self) -> tuple[Tensor, list[BatchDraws]]:
        """Draw everything of the next epoch: the positions of its images in order, and what happens to each batch."""
        order = self._order().flatten()
        return order, self._draws([len(part) for part in order.split(self.recipe.batch_size * self.group)])

    def state_dict(self) -> dict[str, Tensor]:
        """Return where the streams are."""
        return {purpose: generator.get_state() for purpose, generator in self._streams.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        for purpose, generator in self._streams.items():
            generator.set_state(state[purpose])

    def _order(self) -> Tensor:
        """Return the positions of an epoch's images, (items, images an item)."""
        shuffled = torch.randperm(len(self.data.train), generator=self._streams["order"])
        wanted = self.wants.groups
        if wanted is None:
            return shuffled[: self.steps * self.recipe.batch_size, None]
        return groups.epoch(
            wanted,
            self.data.train.labels.cpu(),
            self._pool,
            self.recipe.batch_size,
            self.steps,
            self._streams["method images"],
        )

    def _draw_pool(self, seed: int) -> Tensor | None:
        wanted = self.wants.groups
        if wanted is None or wanted.kind != "random":
            return None
        generator = torch.Generator().manual_seed(derived_seed(seed, "groups"))
        return groups.pool(len(self.data.train), wanted, generator)

    def _draws(self, sizes: Sequence[int]) -> list[BatchDraws]:
        """Draw what happens to batches of so many images, batch by batch."""
        side, recipe = self.data.image_size, self.recipe
        common, own, method = self._streams["augmentation"], self._streams["method images"], self.method
        alphas = (recipe.mixup_alpha, recipe.cutmix_alpha)
        return [
            BatchDraws(
                self.data.augmenter.draw(size, side, side, common),
                option(MIXING).draw_mixing(size, side, side, *alphas, common) if any(alphas) else None,
                {view: self._augmenters[view].draw(size, side, side, own) for view in self.views},
                method.draw(side, own) if isinstance(method, Prepares) else None,
            )
            for size in sizes
        ]

    def change(self, images: Tensor, drawn: BatchDraws) -> dict[str, Tensor]:
        """Return by view what becomes of uint8 images in advance (Augmenter.change); further views have the same."""
        draws = {IMAGES: drawn.augmentation, **drawn.views}
        return {view: augmenter.change(images, draws[view]) for view, augmenter in self._augmenters.items()}

    def finish(self, changed: Mapping[str, Tensor], labels: Tensor, positions: Tensor, drawn: BatchDraws) -> Batch:
        """Return the batch that networks see, of what `change` made of its images."""
        draws = {IMAGES: drawn.augmentation, **drawn.views}
        views = {view: self._augmenters[view].finish(images, draws[view]) for view, images in changed.items()}
        batch = Batch(views.pop(IMAGES), labels, positions, labels, 1.0, self.recipe.label_smoothing, self.group)
        if drawn.mixing is not None:
            mixed = option(MIXING).mix(batch.images, labels, drawn.mixing)
            others = {"other_labels": mixed.other_labels, "other_positions": positions[drawn.mixing.partners]}
            batch = replace(batch, images=mixed.images, mixing=mixed.lam, **others)
        fixed = (
            self.teacher_logits[:, positions] if self.wants.fixed_teacher and self.teacher_logits is not None else None
        )
        batch = replace(batch, views=views, teacher_logits=fixed)
        if drawn.own is None:
            return batch
        assert isinstance(self.method, Prepares), "it drew for the batch"
        return self.method.prepare(batch, drawn.own)

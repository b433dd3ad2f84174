"""The batches of a training: which images, how they are changed, and what the method asks for beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from kd.data import groups
from kd.data.augment import Augmenter
from kd.data.mixing import mix
from kd.engine.data import Data
from kd.engine.seeds import derived_seed
from kd.methods.contract import Batch, Method
from kd.schema.config import RandAugment, Recipe


class Feed:
    """Serves a stage's batches, all draws from generators of its own.

    Order and augmentation are the same for every method of a seed; groups, further views and what `Method.prepare`
    draws come from a third stream, so that a method that needs them changes nothing for the others.
    """

    def __init__(self, data: Data, method: Method, seed: int, teacher_logits: Tensor | None = None) -> None:
        self.data, self.method, self.needs = data, method, method.needs()
        self.teacher_logits = teacher_logits
        self._streams = {
            purpose: torch.Generator().manual_seed(derived_seed(seed, purpose))
            for purpose in ("order", "augmentation", "method images")
        }
        self._pool = self._draw_pool(seed)

    def enter(self, recipe: Recipe) -> None:
        """Take a stage's recipe."""
        self.recipe = recipe
        settings = recipe.augmentation
        self._views = {
            view.name: Augmenter(
                settings.model_copy(update={"randaugment": RandAugment(ops=view.ops, magnitude=view.magnitude)}),
                self.data.augmenter.mean,
                self.data.augmenter.std,
            )
            for view in self.needs.views
        }

    @property
    def steps(self) -> int:
        """Return how many batches an epoch has: as many for groups of images as for images."""
        images, size = len(self.data.train), self.recipe.batch_size
        # BatchNorm has no statistics over a single value, so a last batch of one image is left out.
        return images // size if images % size == 1 else -(-images // size)

    def serves_the_same(self, other: "Feed") -> bool:
        """Whether the next epoch of both is the same batches: images of one stream, and nothing beside them."""
        keys = ("batch_size", "augmentation", "mixup_alpha", "cutmix_alpha", "label_smoothing", "teacher_view")
        plain = not any(feed.needs.groups or feed.needs.views or feed.needs.fixed_teacher for feed in (self, other))
        same_recipe = all(getattr(self.recipe, key) == getattr(other.recipe, key) for key in keys)
        mine, theirs = self.state_dict(), other.state_dict()
        same_place = all(torch.equal(mine[stream], theirs[stream]) for stream in ("order", "augmentation"))
        return plain and same_recipe and same_place

    def epoch(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch."""
        store, recipe = self.data.train, self.recipe
        order = self._order()
        group = order.shape[1]
        for images, labels, positions in store.batches(order.flatten(), recipe.batch_size * group):
            yield self._batch(images, labels, positions, group)

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
        wanted = self.needs.groups
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
        wanted = self.needs.groups
        if wanted is None or wanted.kind != "random":
            return None
        generator = torch.Generator().manual_seed(derived_seed(seed, "groups"))
        return groups.pool(len(self.data.train), wanted, generator)

    def _batch(self, images: Tensor, labels: Tensor, positions: Tensor, group: int) -> Batch:
        recipe, draws = self.recipe, self._streams["augmentation"]
        seen = self.data.augmenter.train(images, draws)
        batch = Batch(seen, labels, positions, labels, 1.0, recipe.label_smoothing, group)
        if recipe.mixup_alpha > 0 or recipe.cutmix_alpha > 0:
            mixed = mix(seen, labels, recipe.mixup_alpha, recipe.cutmix_alpha, draws)
            batch = replace(batch, images=mixed.images, other_labels=mixed.other_labels, mixing=mixed.lam)
        own = self._streams["method images"]
        views = {name: augmenter.train(images, own) for name, augmenter in self._views.items()}
        fixed = (
            self.teacher_logits[:, positions] if self.needs.fixed_teacher and self.teacher_logits is not None else None
        )
        return self.method.prepare(replace(batch, views=views, teacher_logits=fixed), own)

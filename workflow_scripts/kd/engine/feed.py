"""The batches of a training: which images, how they are changed, and what the method asks for beside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kd.data import groups
from kd.data.augment import Augmenter, Draws
from kd.data.wants import Wants
from kd.engine.data import Data
from kd.engine.seeds import derived_seed
from kd.methods.contract import Batch, Method, Prepares
from kd.schema.config import RandAugment, Recipe
from kd.study.options import MIXING, option

if TYPE_CHECKING:
    from kd.data.mixing import Mixing


@dataclass(frozen=True)
class BatchDraws:
    """What is drawn for one batch: how its images are augmented and mixed, and how each of their further views is."""

    augmentation: Draws
    mixing: "Mixing | None" = None
    views: Mapping[str, Draws] = field(default_factory=dict)
    own: Tensor | None = None
    """What the method drew to prepare it."""


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
            for view in self.wants.views
        }

    @property
    def steps(self) -> int:
        """Return how many batches an epoch has: as many for groups of images as for images."""
        images, size = len(self.data.train), self.recipe.batch_size
        # BatchNorm has no statistics over a single value, so a last batch of one image is left out.
        steps = images // size if images % size == 1 else -(-images // size)
        return steps if self.most is None else min(steps, self.most)

    def serves_the_same(self, other: "Feed") -> bool:
        """Whether the next epoch of both is the same batches: images of one stream, and nothing beside them."""
        keys = ("batch_size", "augmentation", "mixup_alpha", "cutmix_alpha", "label_smoothing", "teacher_view")
        plain = not any(feed.wants.groups or feed.wants.views or feed.wants.fixed_teacher for feed in (self, other))
        same_recipe = all(getattr(self.recipe, key) == getattr(other.recipe, key) for key in keys)
        mine, theirs = self.state_dict(), other.state_dict()
        same_place = all(torch.equal(mine[stream], theirs[stream]) for stream in ("order", "augmentation"))
        return plain and same_recipe and same_place

    def epoch(self) -> Iterator[Batch]:
        """Draw everything of the next epoch, then yield its batches."""
        store, order = self.data.train, self._order()
        group = order.shape[1]
        size = self.recipe.batch_size * group
        draws = self._draws([len(part) for part in order.flatten().split(size)])
        for (images, labels, positions), drawn in zip(store.batches(order.flatten(), size), draws, strict=True):
            yield self._batch(images, labels, positions, group, drawn)

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
        """Draw what happens to batches of so many images, batch by batch, and move it to the device at once."""
        side, recipe = self.data.image_size, self.recipe
        common, own, method = self._streams["augmentation"], self._streams["method images"], self.method
        alphas = (recipe.mixup_alpha, recipe.cutmix_alpha)
        found = [
            BatchDraws(
                self.data.augmenter.draw(size, side, side, common),
                option(MIXING).draw_mixing(size, side, side, *alphas, common) if any(alphas) else None,
                {name: augmenter.draw(size, side, side, own) for name, augmenter in self._views.items()},
                method.draw(side, own) if isinstance(method, Prepares) else None,
            )
            for size in sizes
        ]
        return on_device(found, self.data.train.device)

    def _batch(self, images: Tensor, labels: Tensor, positions: Tensor, group: int, drawn: BatchDraws) -> Batch:
        seen = self.data.augmenter.apply(images, drawn.augmentation)
        batch = Batch(seen, labels, positions, labels, 1.0, self.recipe.label_smoothing, group)
        if drawn.mixing is not None:
            mixed = option(MIXING).mix(seen, labels, drawn.mixing)
            batch = replace(batch, images=mixed.images, other_labels=mixed.other_labels, mixing=mixed.lam)
        views = {name: augmenter.apply(images, drawn.views[name]) for name, augmenter in self._views.items()}
        fixed = (
            self.teacher_logits[:, positions] if self.wants.fixed_teacher and self.teacher_logits is not None else None
        )
        batch = replace(batch, views=views, teacher_logits=fixed)
        if drawn.own is None:
            return batch
        assert isinstance(self.method, Prepares), "it drew for the batch"
        return self.method.prepare(batch, drawn.own)


def on_device(draws: Sequence[BatchDraws], device: torch.device) -> list[BatchDraws]:
    """Return the draws of an epoch on a device, each kind of them moved once and not batch by batch."""
    if device.type == "cpu":
        return list(draws)
    augmentation = _moved([drawn.augmentation for drawn in draws], device)
    mixing = _mixing_on([drawn.mixing for drawn in draws if drawn.mixing is not None], device)
    drawn_by_method = [drawn.own for drawn in draws if drawn.own is not None]
    own = torch.stack(drawn_by_method).to(device).unbind() if drawn_by_method else ()
    views = {name: _moved([drawn.views[name] for drawn in draws], device) for name in draws[0].views}
    return [
        BatchDraws(
            augmentation[place],
            mixing[place] if mixing else None,
            {name: moved[place] for name, moved in views.items()},
            own[place] if own else None,
        )
        for place in range(len(draws))
    ]


def _mixing_on(drawn: "Sequence[Mixing]", device: torch.device) -> "list[Mixing]":
    if not drawn:
        return []
    shares, partners = torch.stack([one.share for one in drawn]).to(device), _split([d.partners for d in drawn], device)
    boxes = [one.box for one in drawn if one.box is not None]
    moved = torch.stack(boxes).to(device).unbind() if boxes else [None] * len(drawn)
    parts = zip(drawn, shares, partners, moved, strict=True)
    return [replace(one, share=share, partners=own, box=box) for one, share, own, box in parts]


def _moved(draws: Sequence[Draws], device: torch.device) -> list[Draws]:
    moved = {name: _split([drawn.on_device()[name] for drawn in draws], device) for name in draws[0].on_device()}
    return [
        replace(drawn, **{name: parts[place] for name, parts in moved.items()}) for place, drawn in enumerate(draws)
    ]


def _split(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Move tensors of several lengths as one."""
    return list(torch.cat(list(parts)).to(device).split([len(part) for part in parts])) if parts else []

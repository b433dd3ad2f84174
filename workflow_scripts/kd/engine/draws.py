"""What is drawn for the batches of an epoch before the first of them is served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kd.data.augment import Draws
from kd.study.options import MIXING, option

if TYPE_CHECKING:
    from kd.data.mixing import Mixing

IMAGES = ""
"""Stands for the images themselves among the names of their further views."""
LATE = {"holes", "sides", "partners"}
"""What is drawn for images and acts on them once they are normalised."""


@dataclass(frozen=True)
class BatchDraws:
    """What is drawn for one batch: how its images are augmented and mixed, and how each of their further views is."""

    augmentation: Draws
    mixing: "Mixing | None" = None
    views: Mapping[str, Draws] = field(default_factory=dict)
    own: Tensor | None = None
    """What the method drew to prepare it."""

    def by_image(self) -> dict[str, Tensor]:
        """Return by name what has an entry an image."""
        found = {
            f"{view}/{one.name}": getattr(draws, one.name)
            for view, draws in {IMAGES: self.augmentation, **self.views}.items()
            for one in fields(draws)
        }
        found["partners"] = None if self.mixing is None else self.mixing.partners
        return {name: values for name, values in found.items() if values is not None}

    def by_batch(self) -> dict[str, Tensor]:
        """Return by name what was drawn for the batch as a whole."""
        found = {"own": self.own}
        if self.mixing is not None:
            found |= {"share": self.mixing.share, "box": self.mixing.box}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def of(cls, found: Mapping[str, Tensor], views: Sequence[str]) -> "BatchDraws":
        """Return what `by_image` and `by_batch` say, or some of it."""
        augmentation, *others = (
            Draws(**{one.name: found.get(f"{view}/{one.name}") for one in fields(Draws)}) for view in (IMAGES, *views)
        )
        mixing = None
        if "share" in found:
            mixing = option(MIXING).Mixing(found["share"], found["partners"], found.get("box"))
        return cls(augmentation, mixing, dict(zip(views, others, strict=True)), found.get("own"))


def on_device(drawn: Sequence[BatchDraws], device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what was drawn for all images, (images, ...), and for all batches, (batches, ...), each moved once."""
    by_image, by_batch = [batch.by_image() for batch in drawn], [batch.by_batch() for batch in drawn]
    return (
        {name: torch.cat([batch[name] for batch in by_image]).to(device) for name in by_image[0]},
        {name: torch.stack([batch[name] for batch in by_batch]).to(device) for name in by_batch[0]},
    )

"""Augmentation of whole batches on the device, with draws of its own for every image.

Drawing and applying are two things: draws come from a CPU generator, so that its saved state reproduces the stream on
any device, and can be made and moved for a whole epoch before its first batch, so that nothing waits for them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from kd.schema.config import Augmentation
from kd.study.options import RANDAUGMENT, option

SCALE = (0.08, 1.0)  # share of the area that a resized crop keeps (Szegedy et al. 2015)
RATIO = (3 / 4, 4 / 3)  # width : height of a resized crop
TRIES = 10


@dataclass(frozen=True)
class Draws:
    """What the augmentation of B images draws, an entry an image; None where a recipe draws no such thing."""

    offsets: Tensor | None = None
    """(B,2) int64: row and column at which a crop begins in the padded image."""
    boxes: Tensor | None = None
    """(B,4) int64: top, left, height, width of the part that is enlarged."""
    mirrored: Tensor | None = None
    """(B,) bool."""
    operations: Tensor | None = None
    """(B,n,2) int64: RandAugment's n operations and their signs."""
    holes: Tensor | None = None
    """(B,2) int64: row and column at which the blank square begins, outside of the image too."""
    sides: Tensor | None = None
    """(B,) int64: the side of the blank square, where it is not the recipe's."""

    def on_device(self) -> dict[str, Tensor]:
        """Return by name what was drawn, all of which is read where the images are."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: drawn for name, drawn in found.items() if drawn is not None}


class Augmenter:
    """Crop, flip, RandAugment and cutout, in this order, then normalisation by mean and std (per channel, in 0..1).

    With `largest`, a share of the image's side, the sides of cutout's squares are drawn from 0 to it.
    """

    def __init__(
        self, augmentation: Augmentation, mean: Sequence[float], std: Sequence[float], largest: float = 0.0
    ) -> None:
        self.augmentation, self.largest = augmentation, largest
        # (x / 255 - mean) / std as one multiplication and one addition; a constant channel has std 0
        spread = torch.tensor(std).clamp_min(1e-3)
        self.mean, self.std = tuple(mean), tuple(std)
        self._scale = (1 / (255 * spread)).view(1, -1, 1, 1)
        self._shift = (-torch.tensor(mean) / spread).view(1, -1, 1, 1)

    def train(self, images: Tensor, generator: Generator) -> Tensor:
        """Return augmented, normalised float32 images (B, 3, H, W) of uint8 ones, drawing as it goes."""
        height, width = images.shape[-2:]
        draws = self.draw(len(images), height, width, generator)
        return self.apply(images, replace(draws, **{k: v.to(images.device) for k, v in draws.on_device().items()}))

    def draw(self, count: int, height: int, width: int, generator: Generator) -> Draws:
        """Draw on the CPU what happens to so many images of that size."""
        settings = self.augmentation
        padded = settings.crop == "padded" and settings.padding > 0
        # the order in which a stream is read is part of every result
        found = Draws(
            offsets=draw_offsets(count, settings.padding, generator) if padded else None,
            boxes=draw_boxes(count, height, width, generator) if settings.crop == "resized" else None,
            mirrored=torch.rand(count, generator=generator) < 0.5 if settings.flip else None,
            operations=option(RANDAUGMENT).draw_operations(count, settings.randaugment.ops, generator)
            if settings.randaugment
            else None,
        )
        sides = draw_sides(count, int(self.largest * min(height, width)), generator) if self.largest else None
        side = settings.cutout if sides is None else sides
        holes = None if side is None else draw_holes(count, height, width, side, generator)
        return replace(found, holes=holes, sides=sides)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Return augmented, normalised float32 images (B, 3, H, W) of uint8 ones, from draws moved to their device."""
        return self.finish(self.change(images, draws), draws)

    def change(self, images: Tensor, draws: Draws) -> Tensor:
        """Return uint8 images (B, 3, H, W) cropped, flipped and coloured: all that can be done to them in advance."""
        settings = self.augmentation
        if draws.offsets is not None:
            images = padded_crop(images, settings.padding, draws.offsets)
        if draws.boxes is not None:
            images = crop_and_resize(images, draws.boxes)
        if draws.mirrored is not None:
            images = flip(images, draws.mirrored)
        if draws.operations is not None:
            assert settings.randaugment is not None, "operations are drawn for a recipe that has them"
            images = option(RANDAUGMENT).rand_augment(images, draws.operations, settings.randaugment.magnitude)
        return images

    def finish(self, images: Tensor, draws: Draws) -> Tensor:
        """Return changed images (B, 3, H, W) normalised, with their holes."""
        result = self.plain(images)
        if draws.holes is not None:
            side = self.augmentation.cutout if draws.sides is None else draws.sides
            assert side is not None, "holes are drawn for a recipe that has them"
            result = cutout(result, side, draws.holes)
        return result

    def plain(self, images: Tensor) -> Tensor:
        """Return normalised float32 images (B, 3, H, W) of uint8 ones."""
        if self._scale.device != images.device:
            self._scale, self._shift = self._scale.to(images.device), self._shift.to(images.device)
        return images.float().mul_(self._scale).add_(self._shift)


def draw_offsets(count: int, padding: int, generator: Generator) -> Tensor:
    """Draw (row, column) at which a crop begins in each padded image, int64 (count, 2)."""
    return torch.randint(0, 2 * padding + 1, (2, count), generator=generator).T


def padded_crop(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Return crops of the original size, at offsets (B,2), from images padded with zeros (black) on all sides."""
    count, _, height, width = images.shape
    # A view of every possible crop; picking one for each image is the only copy.
    crops = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = offsets.unbind(1)
    return crops[torch.arange(count, device=images.device), :, rows, columns]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Return the images, those that are `mirrored` (B,) from left to right."""
    if images.is_cuda:  # how many there are would have to be read back from the GPU
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    rows = mirrored.nonzero().squeeze(1)
    return images.index_copy(0, rows, images.index_select(0, rows).flip(-1))


def draw_sides(count: int, largest: int, generator: Generator) -> Tensor:
    """Draw the side of a square for each image, from 0 to the largest, int64 (count,)."""
    return torch.randint(0, largest + 1, (count,), generator=generator)


def draw_holes(count: int, height: int, width: int, side: int | Tensor, generator: Generator) -> Tensor:
    """Draw (row, column) at which a square begins in each image, int64 (count, 2), for one side or (count,) of them.

    Its centre is uniform over the image, so that part of it may lie outside.
    """
    draws, lengths = torch.rand(2, count, generator=generator), torch.tensor([[height], [width]])
    return ((draws * lengths).long().minimum(lengths - 1) - side // 2).T


def cutout(images: Tensor, side: int | Tensor, holes: Tensor) -> Tensor:
    """Blank squares that begin at holes (B,2) with zeros, the mean of normalised images (DeVries and Taylor 2017).

    Their side is one number, or one of each image, (B,).
    """
    inside, extent = [], side[:, None] if isinstance(side, Tensor) else side
    for start, length in zip(holes.unbind(1), images.shape[-2:], strict=True):
        distance = torch.arange(length, device=images.device) - start[:, None]
        inside.append((distance >= 0) & (distance < extent))
    blank = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images * (~blank).float()


def draw_boxes(count: int, height: int, width: int, generator: Generator) -> Tensor:
    """Draw (top, left, height, width) of a random part for each image, int64 (count, 4) (Szegedy et al. 2015).

    The first of ten draws that fits is taken, else the whole image, clipped to the allowed ratios, about its centre.
    """
    area = torch.empty(count, TRIES).uniform_(*SCALE, generator=generator) * (height * width)
    log_ratio = torch.empty(count, TRIES).uniform_(math.log(RATIO[0]), math.log(RATIO[1]), generator=generator)
    corner = torch.rand(2, count, generator=generator)
    widths = (area * log_ratio.exp()).sqrt().round().long()
    heights = (area / log_ratio.exp()).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    fits_any = fits.any(dim=1)
    whole_width = min(width, round(height * RATIO[1]))
    whole_height = min(height, round(width / RATIO[0]))
    wide = torch.where(fits_any, widths.gather(1, first).squeeze(1), whole_width)
    high = torch.where(fits_any, heights.gather(1, first).squeeze(1), whole_height)
    top = torch.where(fits_any, (corner[0] * (height - high + 1)).long(), (height - high) // 2)
    left = torch.where(fits_any, (corner[1] * (width - wide + 1)).long(), (width - wide) // 2)
    return torch.stack([top, left, high, wide], dim=1)


def crop_and_resize(images: Tensor, boxes: Tensor) -> Tensor:
    """Cut (top, left, height, width) out of each uint8 image and enlarge it bilinearly to the size of the images.

    Boxes (B,4) are never larger than the result, so that antialiasing has nothing to do.
    """
    height, width = images.shape[-2:]
    top, left, high, wide = boxes.float().unbind(1)
    rows = _sample_points(top, high, height)
    columns = _sample_points(left, wide, width)
    grid = torch.stack(
        [columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)],
        dim=-1,
    )
    sampled = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.round_().clamp_(0, 255).to(torch.uint8)


def _sample_points(start: Tensor, extent: Tensor, length: int) -> Tensor:
    """Return where to sample along one axis (B, length), in grid_sample's -1..1, never beyond the box's own pixels."""
    steps = (torch.arange(length, device=start.device) + 0.5) / length
    pixel = (steps * extent[:, None] - 0.5).clamp_min(0).minimum(extent[:, None] - 1) + start[:, None]
    return (2 * pixel + 1) / length - 1

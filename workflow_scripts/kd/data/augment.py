"""Augmentation of whole batches on the device, with draws of its own for every image.

All draws come from the generator that is passed in, on the CPU, so that its saved state reproduces the stream on any
device and nothing waits for the device.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from kd.data.randaugment import rand_augment
from kd.schema.config import Augmentation

SCALE = (0.08, 1.0)  # share of the area that a resized crop keeps (Szegedy et al. 2015)
RATIO = (3 / 4, 4 / 3)  # width : height of a resized crop
TRIES = 10


class Augmenter:
    """Crop, flip, RandAugment and cutout, in this order, then normalisation by mean and std (per channel, in 0..1)."""

    def __init__(self, augmentation: Augmentation, mean: Sequence[float], std: Sequence[float]) -> None:
        self.augmentation = augmentation
        # (x / 255 - mean) / std as one multiplication and one addition; a constant channel has std 0
        spread = torch.tensor(std).clamp_min(1e-3)
        self.mean, self.std = tuple(mean), tuple(std)
        self._scale = (1 / (255 * spread)).view(1, -1, 1, 1)
        self._shift = (-torch.tensor(mean) / spread).view(1, -1, 1, 1)

    def train(self, images: Tensor, generator: Generator) -> Tensor:
        """Return augmented, normalised float32 images (B, 3, H, W) of uint8 ones."""
        settings = self.augmentation
        if settings.crop == "padded" and settings.padding:
            images = padded_crop(images, settings.padding, generator)
        elif settings.crop == "resized":
            images = resized_crop(images, generator)
        if settings.flip:
            images = flip(images, generator)
        if settings.randaugment:
            images = rand_augment(images, settings.randaugment.ops, settings.randaugment.magnitude, generator)
        result = self.plain(images)
        if settings.cutout:
            result = cutout(result, settings.cutout, generator)
        return result

    def plain(self, images: Tensor) -> Tensor:
        """Return normalised float32 images (B, 3, H, W) of uint8 ones."""
        if self._scale.device != images.device:
            self._scale, self._shift = self._scale.to(images.device), self._shift.to(images.device)
        return images.float().mul_(self._scale).add_(self._shift)


def padded_crop(images: Tensor, padding: int, generator: Generator) -> Tensor:
    """Return crops of the original size from images padded with zeros (black) on all sides."""
    count, _, height, width = images.shape
    offsets = torch.randint(0, 2 * padding + 1, (2, count), generator=generator).to(images.device, non_blocking=True)
    # A view of every possible crop; picking one for each image is the only copy.
    crops = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(count, device=images.device), :, offsets[0], offsets[1]]


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Return the images, each mirrored left to right with probability one half."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    rows = mirrored.nonzero().squeeze(1).to(images.device, non_blocking=True)
    return images.index_copy(0, rows, images.index_select(0, rows).flip(-1))


def cutout(images: Tensor, side: int, generator: Generator) -> Tensor:
    """Blank a square of normalised images with zeros, the mean colour (DeVries and Taylor 2017).

    Its centre is uniform over the image, so that part of it may lie outside.
    """
    count, _, height, width = images.shape
    draws = torch.rand(2, count, generator=generator)
    inside = []
    for axis, length in enumerate((height, width)):
        start = (draws[axis] * length).long().clamp_max(length - 1) - side // 2
        distance = torch.arange(length) - start[:, None]
        inside.append((distance >= 0) & (distance < side))
    blank = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images * (~blank).float().to(images.device, non_blocking=True)


def resized_crop(images: Tensor, generator: Generator) -> Tensor:
    """Return random parts of the images, brought back to full size bilinearly (Szegedy et al. 2015).

    Parts are never larger than the result, so that antialiasing has nothing to do.
    """
    height, width = images.shape[-2:]
    boxes = draw_boxes(len(images), height, width, generator).to(images.device, non_blocking=True)
    return crop_and_resize(images, boxes)


def draw_boxes(count: int, height: int, width: int, generator: Generator) -> Tensor:
    """Draw (top, left, height, width) of a random part for each image, int64 (count, 4).

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
    """Cut (top, left, height, width) out of each uint8 image and enlarge it bilinearly to the size of the images."""
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

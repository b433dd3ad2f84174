"""MixUp and CutMix: every image of a batch mixed with a partner from the same batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

Box = tuple[int, int, int, int]
"""Top, bottom, left and right, in pixels."""


@dataclass(frozen=True)
class Mixed:
    """A mixed batch: `lam`, a scalar in float64, of each image's target is `labels`, the rest `other_labels`."""

    images: Tensor
    labels: Tensor
    other_labels: Tensor
    lam: Tensor


@dataclass(frozen=True)
class Mixing:
    """How a batch is to be mixed, all tensors, so that a device can replay a step with other draws."""

    share: Tensor
    """What images keep: a scalar in float64, the precision in which it was drawn."""
    partners: Tensor
    """(B,) int64: which image of the batch each is mixed with."""
    box: Tensor | None = None
    """(4,) int64, for CutMix: what is pasted; it leaves `share` of the image."""


def draw_mixing(
    count: int, height: int, width: int, mixup_alpha: float, cutmix_alpha: float, generator: Generator
) -> Mixing | None:
    """Draw how so many images of that size are mixed, with one share ~ Beta(alpha, alpha) a batch.

    CutMix (Yun et al. 2019) has priority over MixUp (Zhang et al. 2018); with both alphas 0 nothing is mixed or drawn.
    """
    if cutmix_alpha <= 0 and mixup_alpha <= 0:
        return None
    share = _draw_beta(cutmix_alpha if cutmix_alpha > 0 else mixup_alpha, generator)
    partners = torch.randperm(count, generator=generator)
    if cutmix_alpha <= 0:
        return Mixing(torch.tensor(share, dtype=torch.float64), partners)
    box = draw_box(height, width, share, generator)
    return Mixing(torch.tensor(kept(box, height, width), dtype=torch.float64), partners, torch.tensor(box))


def mix(images: Tensor, labels: Tensor, drawn: Mixing) -> Mixed:
    """Mix float images (B, 3, H, W) with a permutation of themselves."""
    others = images.index_select(0, drawn.partners)
    if drawn.box is None:
        mixed = torch.lerp(others, images, drawn.share.to(images.dtype))
    else:
        mixed = torch.where(inside(drawn.box, *images.shape[-2:]), others, images)
    return Mixed(mixed, labels, labels[drawn.partners], drawn.share)


def inside(box: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels (H,W) a box (4,) covers, without reading it back to the host."""
    top, bottom, left, right = box
    rows, columns = torch.arange(height, device=box.device)[:, None], torch.arange(width, device=box.device)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def kept(box: Box, height: int, width: int) -> float:
    """Return the share of an image that a box leaves."""
    top, bottom, left, right = box
    return 1 - (bottom - top) * (right - left) / (height * width)


def draw_box(height: int, width: int, lam: float, generator: Generator) -> Box:
    """Draw (top, bottom, left, right) of a box with area 1 - lam of the image, centred anywhere, clipped at the edges.

    Each side is sqrt(1 - lam) of the image's (Yun et al. 2019, eq. 2), rounded down to whole pixels.
    """
    share = (1 - lam) ** 0.5
    edges: list[int] = []
    for length, draw in zip((height, width), torch.rand(2, generator=generator).tolist(), strict=True):
        centre, side = int(draw * length), int(share * length)
        start = centre - side // 2
        edges += [max(start, 0), min(start + side, length)]
    return edges[0], edges[1], edges[2], edges[3]


def _draw_beta(alpha: float, generator: Generator) -> float:
    # torch draws Beta from its global generator only; numpy's, seeded by a draw from ours, stays on our stream.
    seed = int(torch.randint(2**62, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))

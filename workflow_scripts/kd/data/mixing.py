"""MixUp and CutMix: every image of a batch mixed with a partner from the same batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Mixed:
    """A mixed batch: `lam` of each image's target is `labels`, the rest `other_labels`."""

    images: Tensor
    labels: Tensor
    other_labels: Tensor
    lam: float


def mix(images: Tensor, labels: Tensor, mixup_alpha: float, cutmix_alpha: float, generator: Generator) -> Mixed:
    """Mix float images (B, 3, H, W) with a permutation of themselves, with one share lam ~ Beta(alpha, alpha) a batch.

    CutMix (Yun et al. 2019) has priority over MixUp (Zhang et al. 2018); with both alphas 0 nothing is mixed or drawn.
    """
    if cutmix_alpha <= 0 and mixup_alpha <= 0:
        return Mixed(images, labels, labels, 1.0)
    lam = _draw_beta(cutmix_alpha if cutmix_alpha > 0 else mixup_alpha, generator)
    partners = torch.randperm(len(images), generator=generator).to(images.device, non_blocking=True)
    others = images.index_select(0, partners)
    if cutmix_alpha <= 0:
        return Mixed(torch.lerp(others, images, lam), labels, labels[partners], lam)
    height, width = images.shape[-2:]
    top, bottom, left, right = draw_box(height, width, lam, generator)
    pasted = images.clone()
    pasted[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return Mixed(pasted, labels, labels[partners], kept)


def draw_box(height: int, width: int, lam: float, generator: Generator) -> tuple[int, int, int, int]:
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

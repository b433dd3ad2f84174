"""CutMix as relational distillation: a box of another image is pasted in (Wilf et al. 2023; Yun et al. 2019)."""

import torch
from torch import Generator, Tensor

from kd.data.mixing import draw_box
from kd.methods.mixup import Mixup


def pasted(images: Tensor, box: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Return the first images (B,3,H,W) of pairs (B,2,3,H,W) with a box of the second, and the shares of area (2,).

    `box` is (top, bottom, left, right) in pixels.
    """
    (first, second), (top, bottom, left, right) = images.unbind(dim=1), box
    height, width = images.shape[-2:]
    result = first.clone()
    result[:, :, top:bottom, left:right] = second[:, :, top:bottom, left:right]
    other = (bottom - top) * (right - left) / (height * width)
    return result, torch.tensor([1 - other, other])


class CutMix(Mixup):
    """Labels and teacher's logits of two images, by the area that each has of the picture."""

    def mix(self, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Paste a box of area 1 - lambda, lambda uniform, clipped at the edges; shares (2,) are what it then covers."""
        lam, (height, width) = torch.rand((), generator=generator).item(), images.shape[-2:]
        mixed, shares = pasted(images, draw_box(height, width, lam, generator))
        return mixed, shares.to(images.device, non_blocking=True)

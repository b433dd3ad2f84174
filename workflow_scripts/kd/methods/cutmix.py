"""CutMix as relational distillation: a box of another image is pasted in (Wilf et al. 2023; Yun et al. 2019)."""

import torch
from torch import Generator, Tensor

from kd.data.mixing import draw_box, inside
from kd.methods.mixup import Mixup


def pasted(images: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first images (B,3,H,W) of pairs (B,2,3,H,W) with a box of the second, and the shares of area (2,).

    `box` (4,) is top, bottom, left and right in pixels. It is not read back to the host.
    """
    first, second = images.unbind(dim=1)
    covered = inside(box, *images.shape[-2:])
    other = covered.sum(dtype=torch.float64) / covered.numel()
    return torch.where(covered, second, first), torch.stack([1 - other, other]).float()


class CutMix(Mixup):
    """Labels and teacher's logits of two images, by the area that each has of the picture."""

    def draw(self, side: int, generator: Generator) -> Tensor:
        """Return the box (4,) of area 1 - lambda, lambda uniform, clipped at the edges."""
        lam = torch.rand((), generator=generator).item()
        return torch.tensor(draw_box(side, side, lam, generator))

    def mix(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Paste the box; shares (2,) are what it covers."""
        return pasted(images, drawn)

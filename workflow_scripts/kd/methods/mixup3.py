"""MixUp of three images as relational distillation (Wilf et al. 2023)."""

import torch
from torch import Generator, Tensor

from kd.methods.mixup import Mixup


class Mixup3(Mixup):
    """Labels and teacher's logits of three images, in the shares in which they are mixed."""

    parts = 3

    def draw(self, side: int, generator: Generator) -> Tensor:
        """Return three uniform draws over their sum, which is not uniform on the simplex."""
        draws = torch.rand(self.parts, generator=generator)
        return draws / draws.sum()

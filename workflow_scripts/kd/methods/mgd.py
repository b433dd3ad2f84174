"""Masked generative distillation: masked student maps generate the teacher's (Yang et al. 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.methods._features import pool_match
from kd.methods.contract import STUDENT, Context, teacher
from kd.methods.tap_loss import TapLoss


def channel_mask(feature: Tensor, ratio: float) -> Tensor:
    """Return (B,C,1,1) of 0 and 1 for maps (B,C,H,W), each 0 with probability `ratio`, from the global generator."""
    drawn = torch.rand(feature.shape[0], feature.shape[1], 1, 1, device=feature.device)
    return (drawn >= ratio).to(feature.dtype)


def mgd_loss(generated: Tensor, target: Tensor) -> Tensor:
    """Return the squared differences of maps (B,C,H,W), summed over an image and averaged over the batch.

    The sum grows with channels and pixels, and so does what a weight means.
    """
    return (generated - target.detach()).square().sum() / len(generated)


class Generator(nn.Module):
    """Two 3x3 convolutions that make teacher maps of masked student maps; a 1x1 one before them where widths differ."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.align = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.generation = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )

    def forward(self, feature: Tensor, mask: Tensor) -> Tensor:
        """Return maps (B,outputs,H,W) of maps (B,inputs,H,W), whose aligned channels are masked by (B,outputs,1,1)."""
        return self.generation(self.align(feature) * mask)


class MGD(TapLoss):
    """Cross-entropy and the generation of the teacher's maps."""

    term = "mgd"

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one generator a pair of taps."""
        pairs = zip(context.features(STUDENT), context.features(teacher(0)), strict=True)
        return nn.ModuleDict({"generators": nn.ModuleList([Generator(own[0], other[0]) for own, other in pairs])})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the distance of generated maps; of maps of different size the larger is pooled to the smaller."""
        total = student[0].new_zeros(())
        for generator, own, other in zip(extra["generators"].children(), student, target, strict=True):
            s, t = pool_match(own, other)
            total = total + mgd_loss(generator(s, channel_mask(t, self.settings.mask_ratio)), t)
        return total

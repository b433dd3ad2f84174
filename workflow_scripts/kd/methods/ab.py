"""Activation boundaries: neurons are on and off where the teacher's are (Heo, Lee, Yun and Choi 2019)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.methods._connectors import connected, tap_pairs
from kd.methods._features import before_activation
from kd.methods._features_first import FeaturesFirst
from kd.methods.contract import Context

SCALE = 3 / 1000


def boundary_loss(student: Tensor, target: Tensor, margin: float) -> Tensor:
    """Return squared hinges of pre-activations (B, ...), summed over an image and averaged over the batch.

    Where the teacher is off (t <= 0) the student should be below -margin, where it is on at or above margin.
    """
    off = (student + margin).clamp(min=0).square()
    on = (student - margin).clamp(max=0).square()
    return torch.where(target.detach() > 0, on, off).sum() / len(student)


def ab_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], margin: float = 1.0) -> Tensor:
    """Return the boundary losses of all taps times 3/1000; the last tap weighs 1, each one before it half as much.

    Pre-activations are (B,C,H,W) of one shape, the student's behind its connector (the scale and the taps'
    weights are the released ones).
    """
    total, last = student_feats[0].new_zeros(()), len(student_feats) - 1
    for k, (student, target) in enumerate(zip(student_feats, teacher_feats, strict=True)):
        total = total + SCALE * 2.0 ** (k - last) * boundary_loss(student, target, margin)
    return total


class AB(FeaturesFirst):
    """Activation boundaries first, which train connectors and the student's features; then cross-entropy or KD."""

    term = "ab"

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Move each tap to before its activation."""
        return before_activation(self.name, context, super().taps(context))

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one connector a pair of taps: none where the shapes agree, else convolution and BatchNorm."""
        connectors = [
            nn.Identity() if pair.student == pair.target else pair.regressor(relu=False)
            for pair in tap_pairs(self.name, context)
        ]
        return nn.ModuleDict({"connectors": nn.ModuleList(connectors)})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the boundary loss."""
        return ab_loss(connected(extra["connectors"], student), target, self.settings.margin)

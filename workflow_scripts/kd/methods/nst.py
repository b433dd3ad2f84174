"""Neuron selectivity transfer: the distributions of channels over space match (Huang and Wang 2017)."""

from collections.abc import Sequence

from torch import Tensor, nn

from kd.methods._features import pool_match, unit
from kd.methods.tap_loss import TapLoss


def kernel_mean(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean over images and pairs of channels of (a . b)^2, for channels (B,C,HW) of two maps."""
    return (first @ second.transpose(1, 2)).square().mean()


def nst_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
    """Return the squared maximum mean discrepancy between channels as unit vectors over space, summed over stages.

    Maps are (B,C,H,W), the larger pooled to the smaller; the kernel is polynomial with d = 2 and c = 0. The
    teacher's own term is a constant that keeps the value at or above zero.
    """
    total = student_feats[0].new_zeros(())
    for student_feature, teacher_feature in zip(student_feats, teacher_feats, strict=True):
        s, t = (unit(f.flatten(2), dim=2) for f in pool_match(student_feature, teacher_feature.detach()))
        total = total + kernel_mean(t, t) + kernel_mean(s, s) - 2 * kernel_mean(s, t)
    return total


class NST(TapLoss):
    """Cross-entropy and neuron selectivity transfer."""

    term = "nst"

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the discrepancy."""
        return nst_loss(student, target)

"""Similarity-preserving distillation: images alike for the teacher are alike for the student (Tung and Mori 2019)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._features import unit
from kd.methods.tap_loss import TapLoss


def similarity(feature: Tensor) -> Tensor:
    """Return inner products (B,B) between the images' flattened features (B, ...), rows scaled to length one."""
    vectors = feature.flatten(1)
    return unit(vectors @ vectors.T, dim=1)


def sp_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
    """Return the sum over taps of the squared Frobenius distance of similarity matrices over B^2."""
    pairs = zip(student_feats, teacher_feats, strict=True)
    losses = (F.mse_loss(similarity(s), similarity(t.detach())) for s, t in pairs)
    return sum(losses, start=student_feats[0].new_zeros(()))


class SP(TapLoss):
    """Cross-entropy and preserved similarities."""

    term = "sp"
    maps = False

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the similarity loss."""
        return sp_loss(student, target)

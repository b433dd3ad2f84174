"""Attention transfer: spatial attention maps of all stages match (Zagoruyko and Komodakis 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._features import pool_match
from kd.methods.tap_loss import TapLoss


def attention_map(feature: Tensor, p: int) -> Tensor:
    """Return the channel mean of |f|^p of maps (B,C,H,W), flattened to (B,HW) and scaled to length one."""
    return F.normalize(feature.abs().pow(p).mean(dim=1).flatten(1), dim=1)


def at_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], p: int = 2, form: str = "code") -> Tensor:
    """Return the sum over stages of the distance between attention maps; larger maps are pooled to the smaller.

    form "code": mean of squared differences over B and HW, as released, which the weight 1000 belongs to.
    form "paper": half the batch mean of the l2 norms, so that the weight is equation 2's beta.
    """
    total = student_feats[0].new_zeros(())
    for student_feature, teacher_feature in zip(student_feats, teacher_feats, strict=True):
        s, t = pool_match(student_feature, teacher_feature.detach())
        difference = attention_map(s, p) - attention_map(t, p)
        if form == "code":
            total = total + difference.square().mean()
        else:
            total = total + 0.5 * torch.linalg.vector_norm(difference, dim=1).mean()
    return total


class AT(TapLoss):
    """Cross-entropy and attention transfer."""

    term = "at"

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the attention loss."""
        return at_loss(student, target, self.settings.p, self.settings.form)

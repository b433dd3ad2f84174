"""Attention transfer: spatial attention maps of all stages match (Zagoruyko and Komodakis 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.needs import Needs
from kd.methods.contract import STUDENT, Batch, Context, Method, Outputs, Progress, teacher
from kd.methods.features import map_shapes, pool_match


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


class AT(Method):
    """Cross-entropy and attention transfer."""

    def needs(self) -> Needs:
        """Ask for the tapped maps, compared one to one."""
        return Needs(tuple(self.settings.student_taps), tuple(self.settings.teacher_taps), same_length=True)

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that the taps are maps; attention needs no modules."""
        map_shapes("at", context, STUDENT, self.student_taps)
        map_shapes("at", context, teacher(0), self.teacher_taps)
        return nn.ModuleDict()

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the attention loss."""
        student = outputs[STUDENT].features(self.student_taps)
        target = outputs[teacher(0)].features(self.teacher_taps)
        return {
            "ce": batch.cross_entropy(outputs[STUDENT].logits),
            "at": at_loss(student, target, self.settings.p, self.settings.form),
        }

"""ICKD-C: the correlations between channels match, whatever the size of the maps (Liu et al. 2021)."""

from collections.abc import Sequence

from torch import Tensor, nn

from kd.methods._connectors import connected, projection
from kd.methods._features import unit
from kd.methods.contract import STUDENT, Context, Step, teacher
from kd.methods.kd import kd_loss
from kd.methods.tap_loss import TapLoss


def channel_correlations(feature: Tensor) -> Tensor:
    """Return (B,C,C) the inner products over space of every two channels of maps (B,C,H,W), rows of length one."""
    channels = feature.flatten(2)
    return unit(channels @ channels.transpose(1, 2), dim=2)


def ickd_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
    """Return the sum over taps of squared differences of correlations, over channels and images.

    Maps (B,C,H,W) of a pair have the same number of channels, and may differ in size. As released, the sum over C x C
    entries is divided by C and not by its square.
    """
    total = student_feats[0].new_zeros(())
    for student, target in zip(student_feats, teacher_feats, strict=True):
        difference = channel_correlations(student) - channel_correlations(target.detach())
        total = total + difference.square().sum() / (student.shape[0] * student.shape[1])
    return total


class ICKD(TapLoss):
    """Cross-entropy, softened logits and correlations between channels, the student's behind a 1x1 convolution."""

    term = "ickd"

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one projection to the teacher's channels a pair of taps."""
        pairs = zip(context.features(STUDENT), context.features(teacher(0)), strict=True)
        return nn.ModuleDict({"connectors": nn.ModuleList([projection(own[0], other[0]) for own, other in pairs])})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the loss of the correlations."""
        return ickd_loss(connected(extra["connectors"], student), target)

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of labels, of correlations and of softened logits."""
        kd = kd_loss(step.student.logits, step.teacher.logits, self.settings.temperature)
        return {**super().loss(step), "kd": kd}

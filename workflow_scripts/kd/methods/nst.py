"""Neuron selectivity transfer: the distributions of channels over space match (Huang and Wang 2017)."""

from collections.abc import Sequence

from torch import Tensor, nn

from kd.data.needs import Needs
from kd.methods.contract import STUDENT, Batch, Context, Method, Outputs, Progress, teacher
from kd.methods.features import map_shapes, pool_match, unit


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


class NST(Method):
    """Cross-entropy and neuron selectivity transfer."""

    def needs(self) -> Needs:
        """Ask for the tapped maps, compared one to one."""
        return Needs(tuple(self.settings.student_taps), tuple(self.settings.teacher_taps), same_length=True)

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that the taps are maps; the kernels need no modules."""
        map_shapes("nst", context, STUDENT, self.student_taps)
        map_shapes("nst", context, teacher(0), self.teacher_taps)
        return nn.ModuleDict()

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the discrepancy."""
        student = outputs[STUDENT].features(self.student_taps)
        target = outputs[teacher(0)].features(self.teacher_taps)
        return {"ce": batch.cross_entropy(outputs[STUDENT].logits), "nst": nst_loss(student, target)}

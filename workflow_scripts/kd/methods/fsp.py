"""Flow of solution procedure: Gram matrices between the ends of stages match (Yim et al. 2017)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.needs import Needs
from kd.methods.contract import STUDENT, Batch, Context, Method, Outputs, Progress, Stage, Update, teacher
from kd.methods.features import map_shapes, paired_channels, pool_match
from kd.methods.kd import kd_loss
from kd.methods.stages import initial_stage


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean over positions of products of channels (B,C1,C2) of maps, the larger pooled to the smaller."""
    one, two = (feature.flatten(2) for feature in pool_match(first, second))
    return one @ two.transpose(1, 2) / one.shape[2]


def fsp_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of flow matrices, summed over neighbouring taps (equation 2 of the paper).

    Maps are (B,C,H,W); those of one tap have as many channels in both networks.
    """
    assert len(student_feats) == len(teacher_feats), "one tap of the student for each of the teacher"
    total = student_feats[0].new_zeros(())
    for (s1, s2), (t1, t2) in zip(pairwise(student_feats), pairwise(teacher_feats), strict=True):
        total = total + F.mse_loss(flow(s1, s2), flow(t1.detach(), t2.detach()))
    return total


class FSP(Method):
    """Flow matrices first, which train the student's features alone; then cross-entropy, if asked for with KD."""

    def needs(self) -> Needs:
        """Ask for the tapped maps, compared one to one."""
        return Needs(tuple(self.settings.student_taps), tuple(self.settings.teacher_taps), same_length=True)

    def plan(self) -> list[Stage]:
        """Return the stage of the flow matrices and that of the labels."""
        return [
            initial_stage("fsp", self.settings.init_epochs, (STUDENT,)),
            Stage("train", (Update(STUDENT, (STUDENT,)),)),
        ]

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that the maps have equal channels; flow matrices need no modules."""
        student = map_shapes("fsp", context, STUDENT, self.student_taps)
        target = map_shapes("fsp", context, teacher(0), self.teacher_taps)
        paired_channels("fsp", student, target, self.student_taps)
        return nn.ModuleDict()

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the flow loss alone, or the classification loss with softened logits if they weigh anything."""
        student, target = outputs[STUDENT], outputs[teacher(0)]
        if update == "fsp":
            return {"fsp": fsp_loss(student.features(self.student_taps), target.features(self.teacher_taps))}
        terms = {"ce": batch.cross_entropy(student.logits)}
        if self.settings.kd_weight > 0:
            terms["kd"] = kd_loss(student.logits, target.logits, self.settings.temperature)
        return terms

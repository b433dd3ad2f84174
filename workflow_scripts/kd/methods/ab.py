"""Activation boundaries: neurons are on and off where the teacher's are (Heo, Lee, Yun and Choi 2019)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.data.needs import Needs
from kd.methods.connectors import hint_regressor
from kd.methods.contract import EXTRA, STUDENT, Batch, Context, Method, Outputs, Progress, Stage, Update, teacher
from kd.methods.features import before_activation, map_shapes
from kd.methods.kd import kd_loss
from kd.methods.stages import initial_stage

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


class AB(Method):
    """Activation boundaries first, which train connectors and the student's features; then cross-entropy or KD."""

    def needs(self) -> Needs:
        """Ask for the tapped maps, once bound for those before their activation, compared one to one."""
        student = self.student_taps or tuple(self.settings.student_taps)
        return Needs(student, self.teacher_taps or tuple(self.settings.teacher_taps), same_length=True)

    def plan(self) -> list[Stage]:
        """Return the stage of the boundaries and that of the labels."""
        return [
            initial_stage("ab", self.settings.init_epochs, (STUDENT, EXTRA)),
            Stage("train", (Update(STUDENT, (STUDENT,)),)),
        ]

    def bind(self, context: Context) -> None:
        """Resolve taps and move each to before its activation."""
        super().bind(context)
        self.role_taps = {role: before_activation("ab", context, role, taps) for role, taps in self.role_taps.items()}
        self.student_taps, self.teacher_taps = self.role_taps[STUDENT], self.role_taps[teacher(0)]

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one connector a pair of taps: none where the shapes agree, else convolution and BatchNorm."""
        student = map_shapes("ab", context, STUDENT, self.student_taps)
        target = map_shapes("ab", context, teacher(0), self.teacher_taps)
        names = [f"method ab, taps {s} and {t}" for s, t in zip(self.student_taps, self.teacher_taps, strict=True)]
        connectors = [
            nn.Identity() if s == t else hint_regressor(s, t, name, relu=False)
            for s, t, name in zip(student, target, names, strict=True)
        ]
        return nn.ModuleDict({"connectors": nn.ModuleList(connectors)})

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the boundary loss alone, or the classification loss with softened logits if they weigh anything."""
        student, target = outputs[STUDENT], outputs[teacher(0)]
        if update == "ab":
            pairs = zip(extra["connectors"].children(), student.features(self.student_taps), strict=True)
            connected = [connector(feature) for connector, feature in pairs]
            return {"ab": ab_loss(connected, target.features(self.teacher_taps), self.settings.margin)}
        terms = {"ce": batch.cross_entropy(student.logits)}
        if self.settings.kd_weight > 0:
            terms["kd"] = kd_loss(student.logits, target.logits, self.settings.temperature)
        return terms

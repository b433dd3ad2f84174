"""FitNets: the student's regressed maps match the teacher's (Romero et al. 2015)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._connectors import connected, tap_pairs
from kd.methods._divergence import softened_kl
from kd.methods._features_first import initial_stage
from kd.methods.contract import STUDENT, TRAIN, Context, Progress, Stage, Step, Update
from kd.methods.tap_loss import TapLoss


def hint_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
    """Return the sum over taps of the mean squared difference between regressed student maps and teacher maps.

    Both are (B,C,H,W) of one shape. The paper's equation 3 has half the sum of squares instead of the mean.
    """
    pairs = zip(student_feats, teacher_feats, strict=True)
    return sum((F.mse_loss(s, t.detach()) for s, t in pairs), start=student_feats[0].new_zeros(()))


class Hint(TapLoss):
    """Hints beside cross-entropy, or before it as in the paper (`two_stage`)."""

    term = "hint"

    def plan(self) -> list[Stage]:
        """Return one joint stage, or hints first and then cross-entropy with distillation."""
        if not self.settings.two_stage:
            return [TRAIN]
        return [initial_stage("hint", self.settings.hint_epochs), Stage("train", (Update(STUDENT, (STUDENT,)),))]

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one regressor a pair of taps."""
        regressors = [pair.regressor() for pair in tap_pairs(self.name, context)]
        return nn.ModuleDict({"regressors": nn.ModuleList(regressors)})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the hint loss of the regressed student maps."""
        return hint_loss(connected(extra["regressors"], student), target)

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the hint alone, cross-entropy with distillation, or cross-entropy with the hint."""
        if step.update == "hint":
            return {"hint": self.compared(step)}
        if not self.settings.two_stage:
            return super().loss(step)
        return {
            "ce": step.cross_entropy(),
            # Equation 2 has no T^2, and a cross-entropy that differs from this divergence by a constant.
            "kd": softened_kl(step.student.logits, step.teacher.logits, self.settings.temperature),
        }

    def weight(self, term: str, progress: Progress) -> float:
        """Lower the weight of distillation linearly over the second stage, as the paper does."""
        if term != "kd":
            return super().weight(term, progress)
        first, last = self.settings.kd_lambda, self.settings.kd_lambda_end
        return float(first + (last - first) * progress.share)

"""FitNets: the student's regressed maps match the teacher's (Romero et al. 2015)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.needs import Needs
from kd.methods.connectors import hint_regressor
from kd.methods.contract import EXTRA, STUDENT, Batch, Context, Method, Outputs, Progress, Stage, Update, teacher
from kd.methods.divergence import softened_kl
from kd.methods.features import map_shapes

HINT_STAGE = {"schedule": "constant", "milestones": [], "warmup_epochs": 0.0}


def hint_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
    """Return the sum over taps of the mean squared difference between regressed student maps and teacher maps.

    Both are (B,C,H,W) of one shape. The paper's equation 3 has half the sum of squares instead of the mean.
    """
    pairs = zip(student_feats, teacher_feats, strict=True)
    return sum((F.mse_loss(s, t.detach()) for s, t in pairs), start=student_feats[0].new_zeros(()))


class Hint(Method):
    """Hints beside cross-entropy, or before it as in the paper (`two_stage`)."""

    def needs(self) -> Needs:
        """Ask for the tapped maps, compared one to one."""
        return Needs(tuple(self.settings.student_taps), tuple(self.settings.teacher_taps), same_length=True)

    def plan(self) -> list[Stage]:
        """Return one joint stage, or hints first and then cross-entropy with distillation."""
        if not self.settings.two_stage:
            return super().plan()
        recipe = {**HINT_STAGE, "epochs": self.settings.hint_epochs}
        return [
            Stage("hint", (Update("hint", (STUDENT, EXTRA)),), recipe=recipe, selects=False),
            Stage("train", (Update(STUDENT, (STUDENT,)),)),
        ]

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one regressor a pair of taps."""
        student = map_shapes("hint", context, STUDENT, self.student_taps)
        target = map_shapes("hint", context, teacher(0), self.teacher_taps)
        names = [f"method hint, taps {s} and {t}" for s, t in zip(self.student_taps, self.teacher_taps, strict=True)]
        shapes = zip(student, target, names, strict=True)
        return nn.ModuleDict({"regressors": nn.ModuleList([hint_regressor(s, t, name) for s, t, name in shapes])})

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the hint alone, cross-entropy with distillation, or cross-entropy with the hint."""
        if update == "hint":
            return {"hint": self.hint(outputs, extra)}
        ce = batch.cross_entropy(outputs[STUDENT].logits)
        if not self.settings.two_stage:
            return {"ce": ce, "hint": self.hint(outputs, extra)}
        # Equation 2 has no T^2, and a cross-entropy that differs from this divergence by a constant.
        kd = softened_kl(outputs[STUDENT].logits, outputs[teacher(0)].logits, self.settings.temperature)
        return {"ce": ce, "kd": kd}

    def hint(self, outputs: Outputs, extra: nn.ModuleDict) -> Tensor:
        """Return the hint loss of the regressed student maps."""
        regressors = extra["regressors"]
        assert isinstance(regressors, nn.ModuleList)
        student = outputs[STUDENT].features(self.student_taps)
        regressed = [regressor(feature) for regressor, feature in zip(regressors, student, strict=True)]
        return hint_loss(regressed, outputs[teacher(0)].features(self.teacher_taps))

    def weight(self, term: str, progress: Progress) -> float:
        """Lower the weight of distillation linearly over the second stage, as the paper does."""
        if term != "kd":
            return super().weight(term, progress)
        first, last = self.settings.kd_lambda, self.settings.kd_lambda_end
        return float(first + (last - first) * progress.share)

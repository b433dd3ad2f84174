"""Knowledge distillation of standardised logits (Sun, Ren, Li, Wang and Cao 2024)."""

from torch import Tensor, nn

from kd.methods._classes import require_three_classes
from kd.methods._standardise import standardise
from kd.methods.contract import Context
from kd.methods.kd import kd_loss
from kd.methods.logit_loss import LogitLoss


def kd_logit_std_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the batch mean of the softened KL divergence of standardised logits (B,C)."""
    return kd_loss(standardise(student_logits), standardise(teacher_logits), temperature)


class KDLogitStd(LogitLoss):
    """Cross-entropy of the logits themselves, distillation of the standardised ones."""

    term = "kd"

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that standardising leaves something to compare; the loss needs no modules."""
        require_three_classes(self.name, context, "standardised logits")
        return nn.ModuleDict()

    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the distillation loss."""
        return kd_logit_std_loss(student, target, self.settings.temperature)

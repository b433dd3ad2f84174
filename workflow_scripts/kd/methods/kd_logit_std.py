"""Knowledge distillation of standardised logits (Sun, Ren, Li, Wang and Cao 2024)."""

from torch import Tensor, nn

from kd.methods.contract import STUDENT, Batch, Method, Outputs, Progress, teacher
from kd.methods.kd import kd_loss
from kd.methods.standardise import standardise


def kd_logit_std_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the batch mean of the softened KL divergence of standardised logits (B,C)."""
    return kd_loss(standardise(student_logits), standardise(teacher_logits), temperature)


class KDLogitStd(Method):
    """Cross-entropy of the logits themselves, distillation of the standardised ones."""

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the distillation loss."""
        student = outputs[STUDENT].logits
        return {
            "ce": batch.cross_entropy(student),
            "kd": kd_logit_std_loss(student, outputs[teacher(0)].logits, self.settings.temperature),
        }

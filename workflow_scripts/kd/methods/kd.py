"""Knowledge distillation of softened logits (Hinton, Vinyals and Dean 2015)."""

from torch import Tensor, nn

from kd.methods.contract import STUDENT, Batch, Method, Outputs, Progress, teacher
from kd.methods.divergence import softened_kl


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the batch mean of KL(teacher || student) at temperature T, for logits (B,C).

    T^2 keeps the gradient's size independent of the temperature (section 2.1 of the paper).
    """
    return temperature**2 * softened_kl(student_logits, teacher_logits, temperature)


class KD(Method):
    """Cross-entropy and softened logits with independent weights."""

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the distillation loss."""
        student = outputs[STUDENT].logits
        return {
            "ce": batch.cross_entropy(student),
            "kd": kd_loss(student, outputs[teacher(0)].logits, self.settings.temperature),
        }

"""Knowledge distillation of softened logits (Hinton, Vinyals and Dean 2015)."""

from torch import Tensor

from kd.methods._divergence import softened_kl
from kd.methods.logit_loss import LogitLoss


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the batch mean of KL(teacher || student) at temperature T, for logits (B,C).

    T^2 keeps the gradient's size independent of the temperature (section 2.1 of the paper).
    """
    return temperature**2 * softened_kl(student_logits, teacher_logits, temperature)


class KD(LogitLoss):
    """Cross-entropy and softened logits with independent weights."""

    term = "kd"

    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the distillation loss."""
        return kd_loss(student, target, self.settings.temperature)

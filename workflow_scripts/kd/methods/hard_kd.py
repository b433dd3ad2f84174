"""Hard-label distillation: the teacher's decision is a second label (Touvron et al. 2021)."""

from torch import Tensor
from torch.nn import functional as F

from kd.methods.logit_loss import LogitLoss


def hard_kd_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the batch mean of the cross-entropy of logits (B,C) with the teacher's most likely class as the label."""
    return F.cross_entropy(student_logits, teacher_logits.argmax(dim=1))


class HardKD(LogitLoss):
    """Cross-entropy with the label and with the teacher's decision."""

    term = "hard"

    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the classification loss of the teacher's decisions."""
        return hard_kd_loss(student, target)

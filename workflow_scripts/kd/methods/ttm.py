"""Transformed teacher matching (Zheng and Yang 2024)."""

from torch import Tensor

from kd.methods._divergence import softened_kl
from kd.methods.logit_loss import LogitLoss


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, exponent: float) -> Tensor:
    """Return the batch mean of KL(p_t^gamma / sum p_t^gamma || p_s) for logits (B,C) and an exponent gamma.

    A power of a softmax, scaled to sum 1, is the softmax at temperature 1 / gamma; the student stays at temperature 1
    and nothing is scaled by T^2.
    """
    return softened_kl(student_logits, exponent * teacher_logits, temperature=1.0)


class TTM(LogitLoss):
    """Cross-entropy and matching of the transformed teacher."""

    term = "ttm"

    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the matching loss."""
        return ttm_loss(student, target, self.settings.exponent)

"""Transformed teacher matching (Zheng and Yang 2024)."""

from torch import Tensor, nn

from kd.methods.contract import STUDENT, Batch, Method, Outputs, Progress, teacher
from kd.methods.divergence import softened_kl


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, exponent: float) -> Tensor:
    """Return the batch mean of KL(p_t^gamma / sum p_t^gamma || p_s) for logits (B,C) and an exponent gamma.

    A power of a softmax, scaled to sum 1, is the softmax at temperature 1 / gamma; the student stays at temperature 1
    and nothing is scaled by T^2.
    """
    return softened_kl(student_logits, exponent * teacher_logits, temperature=1.0)


class TTM(Method):
    """Cross-entropy and matching of the transformed teacher."""

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the matching loss."""
        student = outputs[STUDENT].logits
        return {
            "ce": batch.cross_entropy(student),
            "ttm": ttm_loss(student, outputs[teacher(0)].logits, self.settings.exponent),
        }

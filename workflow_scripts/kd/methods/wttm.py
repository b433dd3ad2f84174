"""Transformed teacher matching, each image weighted by how soft its target is (Zheng and Yang 2024)."""

from torch import Tensor
from torch.nn import functional as F

from kd.methods.logit_loss import LogitLoss


def wttm_loss(student_logits: Tensor, teacher_logits: Tensor, exponent: float) -> Tensor:
    """Return the batch mean of U KL(p_t^gamma / U || p_s), U = sum p_t^gamma, for logits (B,C) and exponent gamma.

    U is between 1 (a certain teacher) and C^(1 - gamma) (a uniform one), for gamma below 1.
    """
    powers = exponent * F.log_softmax(teacher_logits.detach(), dim=1)
    power_sum = powers.logsumexp(dim=1, keepdim=True)
    own = F.log_softmax(student_logits, dim=1)
    divergence = F.kl_div(own, powers - power_sum, reduction="none", log_target=True).sum(dim=1)
    return (power_sum.squeeze(1).exp() * divergence).mean()


class WTTM(LogitLoss):
    """Cross-entropy and weighted matching of the transformed teacher."""

    term = "wttm"

    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the weighted matching loss."""
        return wttm_loss(student, target, self.settings.exponent)

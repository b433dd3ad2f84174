"""ABKD: distillation by the alpha-beta divergence (Wang, Yang, Wang, Wang, Xu and Huang 2025)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.methods.logit_loss import LogitLoss

LARGEST = 40.0
"""Logarithm of the largest power that enters a loss (2e17, whose square is still a float32)."""


def excess(*logarithms: Tensor) -> Tensor:
    """Return by how much the largest of an image's logarithms (B,C) is above LARGEST, else 0, (B,1).

    A negative power of a probability near 0 is beyond float32. The loss of such an image is divided by the exponential
    of this: it is finite, and its gradient keeps its direction. Where all exponents are positive it is 0.
    """
    most = torch.stack([values.detach().amax(dim=1, keepdim=True) for values in logarithms]).amax(dim=0)
    return (most - LARGEST).clamp_min(0.0)


def power_gap(first: Tensor, second: Tensor, power: float) -> Tensor:
    """Return sum_c [x^a log(x^a / y^a) - x^a + y^a] of log-probabilities log x and log y (B,C), (B,)."""
    over = excess(power * first, power * second)
    raised, other = (power * first - over).exp(), (power * second - over).exp()
    return (raised * power * (first - second) - raised + other).sum(dim=1)


def opposite_gap(first: Tensor, second: Tensor, power: float) -> Tensor:
    """Return sum_c [log(y^a / x^a) + x^a / y^a - 1] of log-probabilities log x and log y (B,C), (B,)."""
    ratio = power * (first - second)
    over = excess(ratio)
    return ((ratio - over).exp() - ratio * (-over).exp() - (-over).exp()).sum(dim=1)


def divergences(known: Tensor, own: Tensor, alpha: float, beta: float, form: str) -> Tensor:
    """Return the alpha-beta divergence of every image, (B,), for log-probabilities (B,C) of teacher and student.

    Where alpha, beta or their sum is 0 it is a limit. Continuity gives these the factor 1 over a square (form
    "described"); form "released" has 1 over the number itself, which is the same only at 1.
    """
    scale = 1 if form == "released" else 2
    if alpha == 0 and beta == 0:
        return 0.5 * (own - known).square().sum(dim=1)
    if alpha == 0:
        return power_gap(own, known, beta) / beta**scale
    if beta == 0:
        return power_gap(known, own, alpha) / alpha**scale
    if alpha + beta == 0:
        return opposite_gap(known, own, alpha) / alpha**scale
    total = alpha + beta
    both, pure_known, pure_own = alpha * known + beta * own, total * known, total * own
    over = excess(both, pure_known, pure_own)
    mixed = (both - over).exp()
    pure = alpha / total * (pure_known - over).exp() + beta / total * (pure_own - over).exp()
    return (pure - mixed).sum(dim=1) / (alpha * beta)


def abkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    alpha: float,
    beta: float,
    temperature: float,
    form: str = "released",
) -> Tensor:
    """Return the batch mean of the alpha-beta divergence at temperature T, for logits (B,C); nothing is scaled by T^2.

    (1, 0) is KL(teacher || student), (0, 1) the reverse.
    """
    own = F.log_softmax(student_logits / temperature, dim=1)
    known = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return divergences(known, own, alpha, beta, form).mean()


class ABKD(LogitLoss):
    """Cross-entropy and the alpha-beta divergence."""

    term = "abkd"

    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the divergence."""
        settings = self.settings
        return abkd_loss(student, target, settings.alpha, settings.beta, settings.temperature, settings.form)

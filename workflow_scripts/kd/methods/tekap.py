"""TeKAP: one teacher becomes several by noise on its logits (Hossain, Akhter, Hong and Huh 2025)."""

import torch
from torch import Tensor

from kd.methods.kd import kd_loss
from kd.methods.logit_loss import LogitLoss


def tekap_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    noise: Tensor,
    temperature: float,
    noise_weight: float,
    augmented_weight: float,
) -> Tensor:
    """Return T^2 [KL(p || q) + w sum_k KL(p_k || q)], batch means, p_k of (1 - v) z_t + v noise_k.

    Logits are (B,C), noise (K,B,C); w is `augmented_weight`, v `noise_weight`. It is the sum over k and not the mean,
    as released.
    """
    total = kd_loss(student_logits, teacher_logits, temperature)
    for drawn in noise:
        perturbed = (1 - noise_weight) * teacher_logits.detach() + noise_weight * drawn
        total = total + augmented_weight * kd_loss(student_logits, perturbed, temperature)
    return total


class TeKAP(LogitLoss):
    """Cross-entropy, and distillation from the teacher and from perturbed copies that each batch draws anew."""

    term = "kd"

    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the distillation loss of all teachers."""
        settings = self.settings
        noise = torch.randn((settings.perturbations, *target.shape), device=target.device)
        weights = (settings.temperature, settings.noise_weight, settings.augmented_weight)
        return tekap_loss(student, target, noise, *weights)

"""EBKD: several teachers, each weighted image by image by how sure it is (Kwon, Na, Lee and Kim 2020)."""

from torch import Tensor

from kd.methods._teams import all_logits, divergences
from kd.methods.contract import Method, Step

EPSILON = 1e-12
"""Keeps the shares of the entropy defined where every teacher is certain: they are then equal."""


def entropy_weights(teacher_logits: Tensor, form: str) -> Tensor:
    """Return weights (K,B) for teachers' logits (K,B,C): 1 - H_k / sum of H, H the entropy of the softmax at T = 1.

    They add up to K - 1. form "normalised" divides by that, "released" by K, "plain" by nothing.
    """
    log_shares = teacher_logits.detach().log_softmax(dim=-1)
    entropy = (log_shares.exp() * -log_shares).sum(dim=-1) + EPSILON
    teachers = len(teacher_logits)
    scale = {"plain": 1, "released": teachers, "normalised": teachers - 1}[form]
    return (1 - entropy / entropy.sum(dim=0)) / scale


def ebkd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float, form: str) -> Tensor:
    """Return the batch mean of the weighted sum over teachers (K,B,C) of T^2 KL(teacher || student), logits (B,C)."""
    weights = entropy_weights(teacher_logits, form)
    return (weights * divergences(student_logits, teacher_logits, temperature)).sum(dim=0).mean()


class EBKD(Method):
    """Cross-entropy and teachers weighted by their entropy."""

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the distillation loss."""
        target = all_logits(step.teachers)
        return {
            "ce": step.cross_entropy(),
            "kd": ebkd_loss(step.student.logits, target, self.settings.temperature, self.settings.form),
        }

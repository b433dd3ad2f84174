"""Distillation from the plain average of several teachers (You, Xu, Xu and Tao 2017)."""

import math

from torch import Tensor

from kd.methods._teams import all_logits, divergences
from kd.methods.contract import Method, Step


def average_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float, average: str) -> Tensor:
    """Return T^2 times the batch mean of a divergence from teachers' logits (K,B,C), for student logits (B,C).

    average "divergences": the mean over teachers of KL(teacher || student); "probabilities": the divergence from their
    mean softened distribution, which is as much smaller as they disagree; "logits": from the softmax of mean logits.
    """
    if average == "probabilities":
        log_shares = (teacher_logits / temperature).log_softmax(dim=-1)
        mean = log_shares.logsumexp(dim=0) - math.log(len(teacher_logits))
        teacher_logits = temperature * mean[None]  # its softmax at T is the mean distribution
    elif average == "logits":
        teacher_logits = teacher_logits.mean(dim=0, keepdim=True)
    return divergences(student_logits, teacher_logits, temperature).mean()


class AvgKD(Method):
    """Cross-entropy and the average of all teachers."""

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the distillation loss."""
        settings, target = self.settings, all_logits(step.teachers)
        return {
            "ce": step.cross_entropy(),
            "kd": average_loss(step.student.logits, target, settings.temperature, settings.average),
        }

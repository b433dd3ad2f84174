"""Distillation from the plain average of several teachers (You, Xu, Xu and Tao 2017)."""

import math

from torch import Tensor, nn

from kd.methods.contract import STUDENT, Batch, Method, Outputs, Progress
from kd.methods.teams import all_logits, divergences


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

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the distillation loss."""
        settings, student = self.settings, outputs[STUDENT].logits
        target = all_logits(outputs, self.teachers)
        return {
            "ce": batch.cross_entropy(student),
            "kd": average_loss(student, target, settings.temperature, settings.average),
        }

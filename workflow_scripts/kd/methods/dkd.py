"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu and Liang 2022)."""

import math

import torch
from torch import Tensor, nn

from kd.methods._divergence import softened_kl
from kd.methods._standardise import standardise
from kd.methods.contract import Context, Method, Progress, Step
from kd.tools.errors import UserError


def other_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits (B,C-1) of every class but the label (B,), in order."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, columns + (columns >= labels[:, None]).long())


def target_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits (B,2) of "the label" and "any other class"; their softmax holds the two probabilities.

    The logarithm of a sum of exponentials stands for the other classes, so that nothing saturates.
    """
    target = logits.gather(1, labels[:, None])
    return torch.cat([target, other_classes(logits, labels).logsumexp(dim=1, keepdim=True)], dim=1)


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Return T^2 (alpha TCKD + beta NCKD), batch means, for logits (B,C) with C > 2 and labels (B,).

    TCKD is the divergence of (target, not target), NCKD that among the other classes. With alpha 1 and beta the
    teacher's probability of the other classes it is the softened KL divergence of all classes.
    """
    own, known = student_logits / temperature, teacher_logits / temperature
    tckd = softened_kl(target_or_not(own, labels), target_or_not(known, labels), temperature=1.0)
    nckd = softened_kl(other_classes(own, labels), other_classes(known, labels), temperature=1.0)
    return temperature**2 * (alpha * tckd + beta * nckd)


class DKD(Method):
    """Cross-entropy and decoupled distillation, which is warmed up."""

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that there are other classes to compare; the loss needs no modules."""
        if context.num_classes < 3:
            raise UserError(
                f"method dkd compares the classes beside the label, found {context.num_classes} classes in all: "
                "allowed are 3 or more"
            )
        return nn.ModuleDict()

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the decoupled distillation loss."""
        settings, ce = self.settings, step.cross_entropy()
        student, target = step.student.logits, step.teacher.logits
        if settings.standardize:
            student, target = standardise(student), standardise(target)
        dkd = dkd_loss(student, target, step.batch.labels, settings.alpha, settings.beta, settings.temperature)
        return {"ce": ce, "dkd": dkd}

    def weight(self, term: str, progress: Progress) -> float:
        """Raise the weight of distillation epoch by epoch, the first one counting as 1."""
        full = super().weight(term, progress)
        if term != "dkd":
            return full
        return full * min(1.0, (math.floor(progress.epoch) + 1) / self.settings.warmup_epochs)

"""Refined logit distillation: what a wrong teacher says of the label is left out (Sun et al. 2025)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._classes import require_three_classes, target_or_not
from kd.methods._divergence import softened_kl
from kd.methods._standardise import standardise
from kd.methods._warmup import warmed_up
from kd.methods.contract import Context, Method, Progress, Step


def sample_confidence(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the batch mean of KL([max p, 1 - max p] || [q_y, 1 - q_y]), for logits (B,C), labels (B,).

    The teacher's most likely class stands against the student's label, so that the teacher says how sure to be and
    the label of what. Logarithms of sums of exponentials stand for the other classes: the released code, which takes
    the logarithm of a softmax, is infinite from a margin of about 103 on.
    """
    own, known = student_logits / temperature, teacher_logits.detach() / temperature
    believed = known.argmax(dim=1)
    return temperature**2 * softened_kl(target_or_not(own, labels), target_or_not(known, believed), temperature=1.0)


def masked_correlation(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the batch mean of the divergence among the classes that the teacher puts below the label.

    Logits are (B,C), labels (B,). An image whose label is the teacher's last choice adds 0.
    """
    known = teacher_logits.detach()
    below = known < known.gather(1, labels[:, None])
    least = torch.finfo(student_logits.dtype).min / 4  # its exponential is exactly 0 beside any logit
    own, target = (
        F.log_softmax((logits / temperature).masked_fill(~below, least), dim=1)
        for logits in (student_logits, known.to(student_logits.dtype))
    )
    rows = F.kl_div(own, target, reduction="none", log_target=True)
    return temperature**2 * torch.where(below, rows, 0.0).sum(dim=1).mean()


class RLD(Method):
    """Cross-entropy, sample confidence and masked correlation, which are warmed up."""

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that there are other classes to compare; the loss needs no modules."""
        if self.settings.mcd_weight:
            require_three_classes(self.name, context)
        if self.settings.standardize:
            require_three_classes(self.name, context, "standardised logits")
        return nn.ModuleDict()

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the two terms of distillation."""
        settings, labels, ce = self.settings, step.batch.labels, step.cross_entropy()
        student, target = step.student.logits, step.teacher.logits
        if settings.standardize:
            student, target = standardise(student), standardise(target)
        return {
            "ce": ce,
            "scd": sample_confidence(student, target, labels, settings.scd_temperature),
            "mcd": masked_correlation(student, target, labels, settings.temperature),
        }

    def weight(self, term: str, progress: Progress) -> float:
        """Raise the weights of distillation epoch by epoch."""
        full = super().weight(term, progress)
        return full if term == "ce" else full * warmed_up(progress, self.settings.warmup_epochs)

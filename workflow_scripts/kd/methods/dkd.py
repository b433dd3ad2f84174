"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu and Liang 2022)."""

from torch import Tensor, nn

from kd.methods._classes import other_classes, require_three_classes, target_or_not
from kd.methods._divergence import softened_kl
from kd.methods._standardise import standardise
from kd.methods._warmup import warmed_up
from kd.methods.contract import Context, Method, Progress, Step


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
        require_three_classes(self.name, context)
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
        return full * warmed_up(progress, self.settings.warmup_epochs)

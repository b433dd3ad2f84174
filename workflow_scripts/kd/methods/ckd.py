"""Comparative knowledge distillation: differences of groups of images match the teacher's (Wilf et al. 2023, 2025)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.data.groups import TwoSided
from kd.data.wants import Wants
from kd.methods.contract import Batch, Method, Step
from kd.methods.kd import kd_loss


def group_sizes(pos_and_neg: int) -> tuple[int, int]:
    """Return how many images the sides P and N of a group have: N half of them, rounded down, P the rest."""
    negatives = pos_and_neg // 2
    return pos_and_neg - negatives, negatives


def side_means(values: Tensor, positives: int) -> tuple[Tensor, Tensor]:
    """Return the means of the first `positives` and of the other images of every group, (B,...) each, of (B,g,...)."""
    return values[:, :positives].mean(dim=1), values[:, positives:].mean(dim=1)


def difference(values: Tensor, positives: int) -> Tensor:
    """Return mean over P minus mean over N of every group, (B,...), of values (B,g,...)."""
    first, second = side_means(values, positives)
    return first - second


def ckd_loss(student: Tensor, target: Tensor, criterion: str = "kl", temperature: float = 4.0) -> Tensor:
    """Return how far the student's comparisons (B,C) are from the target's, which are detached.

    criterion "kl": T^2 times the batch mean of KL between their softmaxes at temperature T (the 2023 submission).
    criterion "mse": their mean squared difference over batch and classes (the 2025 paper).
    """
    if criterion == "mse":
        return F.mse_loss(student, target.detach())
    return kd_loss(student, target, temperature)


def label_vectors(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return labels (...) as vectors (...,C): one-hot, a share `smoothing` spread over all classes."""
    # torch's one_hot reads the labels back to check them
    hot = labels[..., None] == torch.arange(num_classes, device=labels.device)
    return hot * (1 - smoothing) + smoothing / num_classes


class CKD(Method):
    """Group differences of the student's logits match those of labels and of the teacher's logits."""

    def wants(self) -> Wants:
        """Want pairs of groups and the teacher's logits on the fixed view of their images."""
        size, limit = self.settings.pos_and_neg, self.settings.max_rel_samples
        groups = TwoSided(size, limit=limit, positives=self.positives)
        return Wants(groups=groups, fixed_teacher=True, live_teacher=False)

    @property
    def positives(self) -> int:
        """Return the size of the side P."""
        return group_sizes(self.settings.pos_and_neg)[0]

    def compared(self, values: Tensor, batch: Batch) -> Tensor:
        """Return what a group (B,g,C) comes to, (B,C)."""
        return difference(values, self.positives)

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss, distillation and the comparative loss, all of group differences."""
        batch, logits, settings = step.batch, step.student.logits, self.settings
        assert batch.teacher_logits is not None, "the fixed view comes with the batch"
        labels = label_vectors(batch.labels, logits.shape[1], batch.label_smoothing).to(logits)
        student, target, truth = (
            self.compared(batch.grouped(values), batch) for values in (logits, batch.teacher_logits[0], labels)
        )
        return {
            "cls": ckd_loss(student, truth, settings.criterion, settings.temperature),
            "kd": kd_loss(student, target, settings.temperature),
            "rel": ckd_loss(student, target, settings.criterion, settings.temperature),
        }

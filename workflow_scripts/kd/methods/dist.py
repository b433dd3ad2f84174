"""Distillation from a stronger teacher by correlations (Huang, You, Wang, Qian and Xu 2022)."""

from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._classes import require_three_classes
from kd.methods.contract import Context, Method, Step

EPSILON = 1e-8


def correlation_loss(first: Tensor, second: Tensor) -> Tensor:
    """Return 1 minus the mean over rows of Pearson's correlation of two matrices (N,M).

    A constant row counts as uncorrelated.
    """
    first, second = (matrix - matrix.mean(dim=1, keepdim=True) for matrix in (first, second))
    return 1 - F.cosine_similarity(first, second, dim=1, eps=EPSILON).mean()


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
    temperature: float = 4.0,
) -> Tensor:
    """Return T^2 (beta inter + gamma intra) for softmax probabilities of logits (B,C) at temperature T.

    Inter compares the classes of each image, intra the images of each class, so that it depends on the batch. T^2 is
    the released code's.
    """
    student = F.softmax(student_logits / temperature, dim=1)
    target = F.softmax(teacher_logits.detach() / temperature, dim=1)
    inter, intra = correlation_loss(student, target), correlation_loss(student.T, target.T)
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


class DIST(Method):
    """Cross-entropy and correlation of predictions."""

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that there is something to correlate; the loss needs no modules."""
        if not self.settings.intra_weight:
            require_three_classes(self.name, context, "the classes of an image alone (intra_weight 0)")
        return nn.ModuleDict()

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the correlation loss."""
        settings, student, target = self.settings, step.student.logits, step.teacher.logits
        # before the classification loss: rounding depends on the order in which gradients add up
        dist = dist_loss(student, target, settings.inter_weight, settings.intra_weight, settings.temperature)
        return {"ce": step.cross_entropy(), "dist": dist}

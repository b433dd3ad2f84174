"""Normalised knowledge distillation (Yang, Zeng, Li, Zhang, Yuan and Li 2023)."""

from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._classes import other_classes, require_three_classes, target_term
from kd.methods.contract import Context, Method, Step


def nontarget_term(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the batch mean of the cross-entropy among the other classes, for logits (B,C), labels (B,).

    It is the cross-entropy and not the divergence, as released: equal networks do not bring it to 0, but its gradient
    is the divergence's.
    """
    own = F.log_softmax(other_classes(student_logits, labels) / temperature, dim=1)
    known = F.softmax(other_classes(teacher_logits.detach(), labels) / temperature, dim=1)
    return -(temperature**2) * (known * own).sum(dim=1).mean()


class NKD(Method):
    """Cross-entropy, the label's soft cross-entropy, and that of the other classes scaled to sum 1."""

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that there are other classes to compare; the loss needs no modules."""
        if self.settings.nontarget_weight:
            require_three_classes(self.name, context)
        return nn.ModuleDict()

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the two terms."""
        student, target, labels = step.student.logits, step.teacher.logits, step.batch.labels
        return {
            "ce": step.cross_entropy(),
            "target": target_term(student, target, labels),
            "nontarget": nontarget_term(student, target, labels, self.settings.temperature),
        }

"""Class-wise self-distillation: two images of one class agree (Yun, Park, Lee and Shin 2020)."""

from torch import Tensor
from torch.nn import functional as F

from kd.data.wants import Groups, Wants
from kd.methods.contract import Method, Step
from kd.methods.kd import kd_loss

PAIR = Groups(2, "same_class")


class CSKD(Method):
    """Cross-entropy of the first image of each pair, and distillation from the second one's detached prediction."""

    def wants(self) -> Wants:
        """Want pairs of images of one class, and no teacher."""
        return Wants(groups=PAIR, live_teacher=False)

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss of the first images and the class-wise loss."""
        batch = step.batch
        first, second = batch.grouped(step.student.logits).unbind(dim=1)
        labels = batch.grouped(batch.labels)[:, 0]
        return {
            "ce": F.cross_entropy(first, labels, label_smoothing=batch.label_smoothing),
            "cs": kd_loss(first, second, self.settings.temperature),
        }

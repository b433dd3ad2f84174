"""Class-wise self-distillation: two images of one class agree (Yun, Park, Lee and Shin 2020)."""

from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.needs import Groups, Needs
from kd.methods.contract import STUDENT, Batch, Method, Outputs, Progress
from kd.methods.kd import kd_loss

PAIR = Groups(2, "same_class")


class CSKD(Method):
    """Cross-entropy of the first image of each pair, and distillation from the second one's detached prediction."""

    def needs(self) -> Needs:
        """Ask for pairs of images of one class, and for no teacher."""
        return Needs(groups=PAIR, live_teacher=False)

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss of the first images and the class-wise loss."""
        first, second = batch.grouped(outputs[STUDENT].logits).unbind(dim=1)
        labels = batch.grouped(batch.labels)[:, 0]
        return {
            "ce": F.cross_entropy(first, labels, label_smoothing=batch.label_smoothing),
            "cs": kd_loss(first, second, self.settings.temperature),
        }

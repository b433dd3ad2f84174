"""Training without a teacher: cross-entropy."""

from torch import Tensor, nn

from kd.methods.contract import STUDENT, Batch, Method, Outputs, Progress


class CE(Method):
    """The baseline that every distillation method must beat."""

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss."""
        return {"ce": batch.cross_entropy(outputs[STUDENT].logits)}

"""Training without a teacher: cross-entropy."""

from torch import Tensor

from kd.methods.contract import Method, Step


class CE(Method):
    """The baseline that every distillation method must beat."""

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss."""
        return {"ce": step.cross_entropy()}

"""A shorter form of the contract for methods whose term is a function of two logits."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from kd.methods.contract import Method, Step


class LogitLoss(Method):
    """Cross-entropy and one term of the logits of student and teacher.

    A whole method, whose card has the settings ce_weight and mse_weight:

        class LogitMSE(LogitLoss):
            term = "mse"

            def compare(self, student: Tensor, target: Tensor) -> Tensor:
                return F.mse_loss(student, target)
    """

    term: ClassVar[str]
    """Name of the term; the setting '<term>_weight' is its weight."""

    @abstractmethod
    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the term, a scalar, of the student's and the teacher's logits (B,C)."""

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the term."""
        return {"ce": step.cross_entropy(), self.term: self.compare(step.student.logits, step.teacher.logits)}

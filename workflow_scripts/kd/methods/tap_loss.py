"""A shorter form of the contract for methods whose term compares features of student and teacher."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from kd.methods._features import paired_taps, require_maps
from kd.methods.contract import Context, Method, Step


class TapLoss(Method):
    """Cross-entropy and one term of features of student and teacher, compared one to one.

    Which features is said by the settings student_taps and teacher_taps, unless a class names them itself (`named`).
    A whole method, whose card has those settings, ce_weight and mse_weight:

        class MapMSE(TapLoss):
            term = "mse"

            def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
                pairs = zip(student, target, strict=True)
                return torch.stack([F.mse_loss(*pool_match(s, t.detach())) for s, t in pairs]).sum()
    """

    term: ClassVar[str]
    """Name of the term; the setting '<term>_weight' is its weight."""
    maps: ClassVar[bool] = True
    """Whether every tap must be a map (C,H,W); otherwise vectors (D,) and tokens will do too."""

    def named(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return names of the student's and of the teacher's taps, 'stages' and 'last' among them."""
        return self.settings.student_taps, self.settings.teacher_taps

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Resolve the names; unequal numbers of taps, none, or no map where maps are compared are a UserError."""
        found = paired_taps(self.name, context, *self.named())
        if self.maps:
            require_maps(self.name, context, found)
        return found

    @abstractmethod
    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the term, a scalar, of features (B, ...) in the order of the taps, through what `build` returned."""

    def compared(self, step: Step) -> Tensor:
        """Return the term of a step."""
        return self.compare(step.student.features, step.teacher.features, step.extra)

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the term."""
        return {"ce": step.cross_entropy(), self.term: self.compared(step)}

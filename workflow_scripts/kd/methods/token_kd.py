"""Distillation token: a second head of a transformer learns from the teacher (Touvron et al. 2021)."""

from torch import Tensor

from kd.methods.contract import STUDENT, Context, Method, Step
from kd.methods.hard_kd import hard_kd_loss
from kd.methods.kd import kd_loss
from kd.tools.errors import UserError

HEADS = ("head", "head_dist")
"""Taps of the two heads' logits (B,C): that of the class token, and that of the distillation token."""


def token_kd_loss(second_logits: Tensor, teacher_logits: Tensor, kind: str, form: str, temperature: float) -> Tensor:
    """Return what the second head learns from the teacher, for logits (B,C).

    Kind "hard" is the cross-entropy with its decision. Kind "soft" is T^2 KL(teacher || second head), whose sum form
    "deit" divides by images and classes, as that release does, and form "timm" by images.
    """
    if kind == "hard":
        return hard_kd_loss(second_logits, teacher_logits)
    soft = kd_loss(second_logits, teacher_logits, temperature)
    return soft / second_logits.shape[1] if form == "deit" else soft


class TokenKD(Method):
    """Cross-entropy of the first head, distillation of the second; the deployed logits are their mean."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return both heads; a student with one is a UserError."""
        if not set(HEADS) <= set(context.taps[STUDENT]):
            raise UserError(
                f"method token_kd needs a student with a second head, such as timm:deit_tiny_distilled_patch16_224, "
                f"and {context.models[STUDENT].arch} has one head: take such a student, or method hard_kd"
            )
        return {STUDENT: HEADS}

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss of the first head and the distillation loss of the second."""
        settings, (first, second) = self.settings, step.student.features
        token = token_kd_loss(second, step.teacher.logits, settings.kind, settings.form, settings.temperature)
        return {"ce": step.batch.cross_entropy(first), "token": token}

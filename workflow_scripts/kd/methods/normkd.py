"""NormKD: every image has a temperature of its own, in proportion to the deviation of its logits (Chi et al. 2023)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._classes import require_three_classes
from kd.methods.contract import Context
from kd.methods.logit_loss import LogitLoss

ROUNDING = 4
"""Logits that deviate by no more than so many roundings of the largest are all equal."""
SMALLEST = 0.01
"""Logits that deviate by less are divided by this: their gradient grows by the inverse of what they are divided by."""


def normalised(logits: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Return logits (B,C) over their temperatures, and these, (B,1): `factor` times the deviation (C - 1) of a row.

    A row whose logits are all equal has temperature 0; its logits become 0 and take no gradient, where the released
    code divides by 0, and one whose logits are nearly so is brought to less than that deviation.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / (logits.shape[1] - 1)
    rounding = ROUNDING * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(dim=1, keepdim=True)
    flat = variance <= rounding.square()
    temperature = factor * torch.where(flat, 1.0, variance).sqrt()
    divisor = temperature.clamp_min(factor * SMALLEST)
    return torch.where(flat, 0.0, centred) / divisor, torch.where(flat, 0.0, temperature)


def normkd_loss(student_logits: Tensor, teacher_logits: Tensor, factor: float) -> Tensor:
    """Return the batch mean of T_t^2 KL(softmax(z_t/T_t) || softmax(z_s/T_s)), each image and network at its own T.

    The gradient runs through the student's temperature, as released.
    """
    own, _ = normalised(student_logits, factor)
    known, temperature = normalised(teacher_logits.detach().to(student_logits.dtype), factor)
    rows = F.kl_div(F.log_softmax(own, dim=1), F.log_softmax(known, dim=1), reduction="none", log_target=True)
    return (temperature.square() * rows.sum(dim=1, keepdim=True)).mean()


class NormKD(LogitLoss):
    """Cross-entropy, and distillation at temperatures that follow the logits."""

    term = "kd"

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that scaling leaves something to compare; the loss needs no modules."""
        require_three_classes(self.name, context, "logits of one deviation")
        return nn.ModuleDict()

    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the distillation loss."""
        return normkd_loss(student, target, self.settings.temperature_norm)

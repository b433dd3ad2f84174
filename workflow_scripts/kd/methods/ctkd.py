"""Curriculum temperature: distillation whose temperature is trained against the student (Li et al. 2023)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods.contract import Context, Method, Progress, Step


class ReverseGradient(torch.autograd.Function):
    """The identity, whose gradient comes back times minus `strength`, a scalar (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, strength: Tensor) -> Tensor:
        """Return the value."""
        ctx.strength = strength.to(value.dtype)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the reversed gradient."""
        return -ctx.strength * gradients[0], None


class Temperature(nn.Module):
    """One temperature for all images: lowest + span * sigmoid(raw), raw a trained number that starts at 1."""

    def __init__(self, lowest: float, span: float) -> None:
        super().__init__()
        self.lowest, self.span = lowest, span
        self.raw = nn.Parameter(torch.ones(()))

    def forward(self, strength: Tensor) -> Tensor:
        """Return the temperature, a scalar, through which the gradient is reversed so strongly."""
        return self.lowest + self.span * torch.sigmoid(ReverseGradient.apply(self.raw, strength))


def ctkd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: Tensor) -> Tensor:
    """Return T^2 times the batch mean of KL(teacher || student) for logits (B,C) at a temperature that has a gradient.

    The gradient runs through both softmaxes and through T^2, as released.
    """
    own = F.log_softmax(student_logits / temperature, dim=1)
    target = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature.square() * F.kl_div(own, target, reduction="batchmean", log_target=True)


def ramp(epoch: float, epochs: int) -> float:
    """Return the curriculum's lambda, 0 to 1 along half a cosine, in the epoch at hand (the first one counts as 1)."""
    done = min(1.0, (math.floor(epoch) + 1) / epochs)
    return 0.5 * (1 - math.cos(math.pi * done))


class CTKD(Method):
    """Cross-entropy and distillation at a temperature that learns to make distillation harder."""

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the temperature."""
        settings = self.settings
        return nn.ModuleDict({"temperature": Temperature(settings.temperature_min, settings.temperature_span)})

    def schedule(self, progress: Progress) -> dict[str, float]:
        """Return how strongly the temperature's gradient is reversed, which rises with the curriculum."""
        return {"reversal": self.settings.reversal * ramp(progress.epoch, self.settings.ramp_epochs)}

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the distillation loss."""
        temperature = step.extra["temperature"](step.schedule["reversal"])
        return {
            "ce": step.cross_entropy(),
            "kd": ctkd_loss(step.student.logits, step.teacher.logits, temperature),
        }

"""Teacher-free distillation from a designed virtual teacher (Yuan, Tay, Li, Wang and Feng 2020)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.data.wants import Wants
from kd.methods.contract import Method, Step


def virtual_teacher(labels: Tensor, classes: int, confidence: float, temperature: float, form: str) -> Tensor:
    """Return log-probabilities (B,C) of a teacher that gives the label (B,) `confidence`, all others equal shares.

    It is softened by the temperature: form "paper" softens the probabilities themselves, to the power 1 / T; form
    "code" takes the softmax of probabilities over T, as released, which is close to uniform.
    """
    own, other = confidence, (1 - confidence) / (classes - 1)
    if form == "paper":
        own, other = math.log(own), math.log(other)
    logits = torch.full((len(labels), classes), other / temperature, device=labels.device)
    return F.log_softmax(logits.scatter(1, labels[:, None], own / temperature), dim=1)


def tf_reg_losses(logits: Tensor, labels: Tensor, confidence: float, temperature: float, form: str = "code") -> Tensor:
    """Return KL(virtual teacher || student) of every image, (B,), for logits (B,C).

    The student's temperature is T in form "paper" and 1 in form "code"; nothing is scaled by T^2.
    """
    target = virtual_teacher(labels, logits.shape[1], confidence, temperature, form).to(logits.dtype)
    own = F.log_softmax(logits / (temperature if form == "paper" else 1.0), dim=1)
    return F.kl_div(own, target, reduction="none", log_target=True).sum(dim=1)


class TfKD(Method):
    """Cross-entropy and the regulariser that a virtual teacher makes."""

    def wants(self) -> Wants:
        """Want nothing: there is no teacher."""
        return Wants(live_teacher=False)

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the regulariser; a mixed image has a share of two virtual teachers."""
        settings, batch, logits = self.settings, step.batch, step.student.logits
        own, other = (
            tf_reg_losses(logits, labels, settings.confidence, settings.temperature, settings.form)
            for labels in (batch.labels, batch.other_labels)
        )
        mixed = batch.mixing * own + (1 - batch.mixing) * other
        return {"ce": step.cross_entropy(), "tf_reg": mixed.mean()}

"""SRD: features projected, standardised over the batch and compared by a high power (Miles and Mikolajczyk 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.methods._divergence import softened_kl
from kd.methods._features import EMBEDDING
from kd.methods.contract import STUDENT, Context, Step, teacher
from kd.methods.tap_loss import TapLoss

SCALE = 2.0
"""What the logarithm is multiplied by in the release, beside the method's weight."""


def standardised(embedding: Tensor, eps: float) -> Tensor:
    """Return embeddings (B,D) with mean 0 and variance 1 over the batch, as BatchNorm without weights has them."""
    variance, mean = torch.var_mean(embedding, dim=0, correction=0)
    return (embedding - mean) / (variance + eps).sqrt()


def srd_loss(student: Tensor, target: Tensor, exponent: float = 4.0, bn_eps: float = 1e-4) -> Tensor:
    """Return 2 log sum |n(student) - n(target)|^exponent over a batch of projected and teacher embeddings (B,D).

    n standardises over the batch. The sum grows with the batch, which moves the logarithm and not its gradient. Equal
    features give a large negative number and no gradient, in place of minus infinity.
    """
    difference = standardised(student, bn_eps) - standardised(target.detach(), bn_eps)
    total = difference.abs().pow(exponent).sum()
    return SCALE * total.clamp_min(torch.finfo(total.dtype).tiny).log()


class SRD(TapLoss):
    """Cross-entropy, logits at temperature 1 and the distance of pooled features behind a linear projector."""

    term = "srd"
    maps = False

    def named(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return the pooled features of both networks."""
        return (EMBEDDING,), (EMBEDDING,)

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the projector, linear from the student's width to the teacher's."""
        inputs, outputs = (context.features(role)[0].numel() for role in (STUDENT, teacher(0)))
        return nn.ModuleDict({"embed": nn.Linear(inputs, outputs)})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the distance of features."""
        settings = self.settings
        return srd_loss(extra["embed"](student[0]), target[0], settings.exponent, settings.bn_eps)

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of labels, of features and of logits."""
        return {**super().loss(step), "kd": softened_kl(step.student.logits, step.teacher.logits, temperature=1.0)}

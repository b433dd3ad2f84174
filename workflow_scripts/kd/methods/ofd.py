"""Overhaul of feature distillation: pre-activations up to a margin, by a partial distance (Heo et al. 2019)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.methods._connectors import connected, projection
from kd.methods._features import before_activation, pool_match
from kd.methods.contract import STUDENT, Context, teacher
from kd.methods.tap_loss import TapLoss
from kd.tools.errors import UserError

RARE = 0.001
TINY = 1e-12


def negative_mean(scale: Tensor, shift: Tensor) -> Tensor:
    """Return E[x | x < 0] of Gaussians with means `shift` and standard deviations |scale|, both (C,): the margins.

    Where x < 0 has a probability of at most 0.001 it is -3 |scale| (as in the paper's release).
    """
    sigma, mean = scale.double().abs().clamp(min=TINY), shift.double()
    ratio = mean / sigma
    density = torch.exp(-0.5 * ratio.square()) / (2 * torch.pi) ** 0.5
    below = torch.special.ndtr(-ratio)
    common = mean - sigma * density / below.clamp(min=RARE)
    return torch.where(below > RARE, common, -3 * sigma).to(scale.dtype)


def partial_loss(student: Tensor, target: Tensor, margin: Tensor) -> Tensor:
    """Return squared distances to max(target, margin), summed over an image and averaged over the batch.

    Pre-activations are (B,C,H,W), margins (C,). Where the target is not positive and the student below it there is
    nothing to learn: both leave the ReLU as zero.
    """
    goal = torch.maximum(target.detach(), margin[:, None, None])
    idle = (goal <= 0) & (student <= goal)
    return torch.where(idle, 0.0, (student - goal).square()).sum() / len(student)


def ofd_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], margins: Sequence[Tensor]) -> Tensor:
    """Return the partial distances of all taps; the last tap weighs 1, each one before it half as much.

    Student maps are (B,C,H,W) behind their connectors; the larger map is pooled to the smaller.
    """
    total, last = student_feats[0].new_zeros(()), len(student_feats) - 1
    for k, (student, target, margin) in enumerate(zip(student_feats, teacher_feats, margins, strict=True)):
        total = total + 2.0 ** (k - last) * partial_loss(*pool_match(student, target), margin)
    return total


class Connector(nn.Module):
    """A 1x1 convolution with BatchNorm towards the teacher's channels, and the margins of those channels."""

    margin: Tensor

    def __init__(self, inputs: int, margin: Tensor) -> None:
        super().__init__()
        self.layers = projection(inputs, len(margin))
        self.register_buffer("margin", margin.clone())

    def forward(self, feature: Tensor) -> Tensor:
        """Return maps of the teacher's channels."""
        return self.layers(feature)


class OFD(TapLoss):
    """Cross-entropy and overhauled feature distillation."""

    term = "ofd"

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Move each tap to before its activation."""
        return before_activation(self.name, context, super().taps(context))

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one connector a pair of taps, with margins from the teacher's BatchNorm; none there is a UserError."""
        norms = context.norms.get(teacher(0), {})
        for tap in context.named[teacher(0)]:
            if tap not in norms:
                raise UserError(
                    f"method ofd takes its margins from the BatchNorm right before a feature's activation, but "
                    f"the teacher's '{tap}' has none of all its channels: allowed are {', '.join(norms) or 'none'}"
                )
        margins = [negative_mean(*norms[tap]) for tap in context.named[teacher(0)]]
        pairs = zip(context.features(STUDENT), margins, strict=True)
        return nn.ModuleDict({"connectors": nn.ModuleList([Connector(s[0], margin) for s, margin in pairs])})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the partial distances."""
        margins = [connector.margin for connector in extra["connectors"].children() if isinstance(connector, Connector)]
        return ofd_loss(connected(extra["connectors"], student), target, margins)

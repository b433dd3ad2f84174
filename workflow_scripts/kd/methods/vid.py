"""Variational information distillation: a Gaussian of the teacher's maps given the student's (Ahn et al. 2019)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._features import pool_match
from kd.methods.contract import STUDENT, Context, teacher
from kd.methods.tap_loss import TapLoss

EPSILON = 1e-5


def vid_loss(
    means: Sequence[Tensor], teacher_feats: Sequence[Tensor], scales: Sequence[Tensor], eps: float = EPSILON
) -> Tensor:
    """Return the sum over taps of the mean of ((mean - teacher)^2 / variance + log variance) / 2.

    Maps (B,C,H,W) or vectors (B,C); the variance of each channel is softplus(scale) + eps for scales (C,). It is the
    Gaussian negative log-likelihood without its constant and may be negative.
    """
    total = means[0].new_zeros(())
    for mean, target, scale in zip(means, teacher_feats, scales, strict=True):
        variance = (F.softplus(scale) + eps).view(-1, *[1] * (mean.dim() - 2))
        total = total + 0.5 * ((mean - target.detach()).square() / variance + variance.log()).mean()
    return total


class TeacherGaussian(nn.Module):
    """The mean of a teacher's map given the student's, by three 1x1 convolutions, and a variance for each channel."""

    def __init__(self, inputs: int, outputs: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        self.scale = nn.Parameter(torch.full((outputs,), inverse_softplus(variance - EPSILON)))

    def forward(self, feature: Tensor) -> Tensor:
        """Return the mean (B,outputs,H,W) of student maps (B,inputs,H,W)."""
        return self.mean(feature)


def inverse_softplus(value: float) -> float:
    """Return x with log(1 + e^x) = value > 0."""
    return value + math.log(-math.expm1(-value))


class VID(TapLoss):
    """Cross-entropy and the likelihood of the teacher's maps; means and variances are trained."""

    term = "vid"

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one Gaussian a pair of taps."""
        shapes = zip(context.features(STUDENT), context.features(teacher(0)), strict=True)
        gaussians = [TeacherGaussian(s[0], t[0], self.settings.init_variance) for s, t in shapes]
        return nn.ModuleDict({"gaussians": nn.ModuleList(gaussians)})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the negative log-likelihood."""
        return predicted_loss(student, target, extra)


def predicted_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
    """Return `vid_loss` of maps under the Gaussians of `extra`; the larger map of a pair is pooled to the smaller."""
    gaussians = extra["gaussians"]
    assert isinstance(gaussians, nn.ModuleList)
    means, targets, scales = [], [], []
    for gaussian, student_feature, teacher_feature in zip(gaussians, student_feats, teacher_feats, strict=True):
        assert isinstance(gaussian, TeacherGaussian)
        s, t = pool_match(student_feature, teacher_feature)
        means.append(gaussian(s))
        targets.append(t)
        scales.append(gaussian.scale)
    return vid_loss(means, targets, scales)

"""Variational information distillation: a Gaussian of the teacher's maps given the student's (Ahn et al. 2019)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.needs import Needs
from kd.methods.contract import STUDENT, Batch, Context, Method, Outputs, Progress, teacher
from kd.methods.features import map_shapes, pool_match

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


class VID(Method):
    """Cross-entropy and the likelihood of the teacher's maps; means and variances are trained."""

    def needs(self) -> Needs:
        """Ask for the tapped maps, compared one to one."""
        return Needs(tuple(self.settings.student_taps), tuple(self.settings.teacher_taps), same_length=True)

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one Gaussian a pair of taps."""
        student = map_shapes("vid", context, STUDENT, self.student_taps)
        target = map_shapes("vid", context, teacher(0), self.teacher_taps)
        variance = self.settings.init_variance
        gaussians = [TeacherGaussian(s[0], t[0], variance) for s, t in zip(student, target, strict=True)]
        return nn.ModuleDict({"gaussians": nn.ModuleList(gaussians)})

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the negative log-likelihood."""
        student = outputs[STUDENT].features(self.student_taps)
        target = outputs[teacher(0)].features(self.teacher_taps)
        return {"ce": batch.cross_entropy(outputs[STUDENT].logits), "vid": predicted_loss(student, target, extra)}


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

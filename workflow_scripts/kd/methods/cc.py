"""Correlation congruence: relations between the images of a batch match (Peng et al. 2019)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._features import EMBEDDING, unit
from kd.methods.contract import STUDENT, Context, teacher
from kd.methods.tap_loss import TapLoss


def neighbour_loss(student: Tensor, target: Tensor) -> Tensor:
    """Return the mean over neighbours i, i+1 of <d_i, d_i+1>, d = |student - target|, for embeddings (B,D).

    It is the released form, in which the target is a learned embedding and so takes gradient. A single image has no
    neighbour and gives 0.
    """
    difference = (student - target).abs()
    return (difference[:-1] * difference[1:]).sum() / max(1, len(difference) - 1)


def correlation(embedding: Tensor, gamma: float, order: int) -> Tensor:
    """Return (B,B) exp(-gamma |x_i - x_j|^2) of embeddings (B,D) as unit vectors x, as its Taylor series in <x_i, x_j>.

    The terms are exp(-2 gamma) (2 gamma <x_i, x_j>)^p / p! for p = 0 ... order.
    """
    vectors = unit(embedding, dim=1)
    cosine = vectors @ vectors.T
    terms = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(dim=0)


def correlation_loss(student: Tensor, target: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Return the mean squared difference of correlations, the paper's form, for embeddings (B,D_s) and (B,D_t)."""
    return F.mse_loss(correlation(student, gamma, order), correlation(target.detach(), gamma, order))


class CC(TapLoss):
    """Cross-entropy and correlation congruence, as released or as in the paper."""

    term = "cc"
    maps = False

    def named(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return the pooled features of both networks."""
        return (EMBEDDING,), (EMBEDDING,)

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the linear embeddings of form code; form paper compares the features themselves."""
        if self.settings.form == "paper":
            return nn.ModuleDict()
        shapes = {"student": context.features(STUDENT)[0], "teacher": context.features(teacher(0))[0]}
        size = self.settings.embedding_size
        return nn.ModuleDict({side: nn.Linear(shape.numel(), size) for side, shape in shapes.items()})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the relational loss."""
        if self.settings.form == "paper":
            return correlation_loss(student[0], target[0], self.settings.gamma, self.settings.order)
        return neighbour_loss(extra["student"](student[0]), extra["teacher"](target[0]))

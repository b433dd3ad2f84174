"""The terms of ASIB's two updates, as pure functions."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_CERTAINTY, MAX_CERTAINTY = 0.1, 1.0


def ib_kl(mu: Tensor, logvar: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Return the batch mean of KL(N(mu, exp(logvar)) || N(0, 1)) for mu, logvar (B,D).

    `reduction` says whether the D dimensions are averaged or summed, a factor D in the meaning of its weight
    (Alemi et al. 2017, "Deep Variational Information Bottleneck", the second term of eq. 17, is the sum).
    """
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
    return (kl.sum(dim=1) if reduction == "sum" else kl.mean(dim=1)).mean()


def warm_up(epoch: float, epochs: float) -> float:
    """Return (epoch + 1) / (epochs + 1), at most 1: a ramp over `epochs` that is above 0 before the first step."""
    return min(1.0, (epoch + 1) / (epochs + 1))


@torch.no_grad()
def certainty(logvar: Tensor) -> Tensor:
    """Return one weight an image, mean over d of exp(-logvar), clamped to [0.1, 1], for logvar (B,D).

    Constant for the optimiser: with gradient and without a floor, the cheapest way to lower a weighted loss is to raise
    the variance, and the synergy stays at chance.
    """
    return logvar.neg().exp().mean(dim=1).clamp(MIN_CERTAINTY, MAX_CERTAINTY)


def soft_kl(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """Return t² KL(softmax(target / t) || softmax(logits / t)) of every image, (B,) (Hinton et al. 2015)."""
    log_p = F.log_softmax(target_logits / temperature, dim=1)
    log_q = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1) * temperature**2


def averaged_soft_kl(logits: Tensor, teacher_logits: list[Tensor], temperature: float) -> Tensor:
    """Return `soft_kl` towards the average of the teachers' logits, (B,)."""
    return soft_kl(logits, torch.stack(teacher_logits).mean(dim=0), temperature)


def feature_distance(student: Tensor, mu: Tensor) -> Tensor:
    """Return the mean squared difference of every image's student embedding and bottleneck mean, both (B,D), (B,)."""
    return (student - mu).square().mean(dim=1)

"""The terms of ASIB's two updates, as pure functions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.methods._features import unit
from kd.methods.ebkd import entropy_weights

MIN_CERTAINTY, MAX_CERTAINTY = 0.1, 1.0
OUTLIER = 0.99
"""Quantile of a batch at which precisions are capped."""
WIDEST_SCALE = 6.0
"""Scales of logits are looked for between two to the minus this and two to the plus this."""
HALVINGS = 24
"""Halvings of that interval, to less than one part in a million."""

Norm = Literal["none", "l2"]


# --- the bottleneck -----------------------------------------------------------------------------------


def ib_kl(mu: Tensor, logvar: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Return the batch mean of KL(N(mu, exp(logvar)) || N(0, 1)) for mu, logvar (B,D).

    `reduction` says whether the D dimensions are averaged or summed, a factor D in the meaning of its weight
    (Alemi et al. 2017, "Deep Variational Information Bottleneck", the second term of eq. 17, is the sum).
    """
    return ib_kls(mu, logvar, reduction).mean()


def ib_kls(mu: Tensor, logvar: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Return `ib_kl` of every image, (B,)."""
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
    return kl.sum(dim=1) if reduction == "sum" else kl.mean(dim=1)


@torch.no_grad()
def certainty(logvar: Tensor, lowest: float = MIN_CERTAINTY) -> Tensor:
    """Return one weight an image, mean over d of exp(-logvar), clamped to [lowest, 1], for logvar (B,D).

    Constant for the optimiser: with gradient and without a floor, the cheapest way to lower a weighted loss is to raise
    the variance, and the synergy stays at chance.
    """
    return logvar.neg().exp().mean(dim=1).clamp(lowest, MAX_CERTAINTY)


# --- logits -------------------------------------------------------------------------------------------


def soft_kl(logits: Tensor, target_logits: Tensor, temperature: Tensor | float) -> Tensor:
    """Return t² KL(softmax(target / t) || softmax(logits / t)) of every image, (B,) (Hinton et al. 2015)."""
    log_p = F.log_softmax(target_logits / temperature, dim=1)
    log_q = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1) * temperature**2


def averaged(teacher_logits: Sequence[Tensor]) -> Tensor:
    """Return the mean of the teachers' logits (B,C)."""
    return torch.stack(list(teacher_logits)).mean(dim=0)


def certain_average(teacher_logits: Sequence[Tensor]) -> Tensor:
    """Return the mean of the teachers' logits (B,C), each image's weighted by how sure each teacher is of it.

    The weights, constants, are (1 - H_k / sum of H) / (K - 1) with H_k the entropy of teacher k at temperature one, as
    Kwon et al. 2020 have them; a single teacher weighs 1.
    """
    logits = torch.stack(list(teacher_logits))
    if len(logits) == 1:
        return logits[0]
    return (entropy_weights(logits, "normalised")[..., None] * logits).sum(dim=0)


def averaged_soft_kl(logits: Tensor, teacher_logits: Sequence[Tensor], temperature: Tensor | float) -> Tensor:
    """Return `soft_kl` towards the average of the teachers' logits, (B,)."""
    return soft_kl(logits, averaged(teacher_logits), temperature)


# --- scales of logits ---------------------------------------------------------------------------------


def entropies(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits) of every image, in nats, (B,), for logits (B,C)."""
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


@torch.no_grad()
def matching_scale(logits: Tensor, target: Tensor, mean: Callable[[Tensor], Tensor] = torch.mean) -> Tensor:
    """Return the scalar s for which softmax(logits / s) has the mean entropy of softmax(target), both (B,C).

    `mean` is taken of images' entropies (B,). The entropy rises with s, which is found by halving an interval a fixed
    number of times: nothing is read back.
    """
    wanted = mean(entropies(target))
    return _halved(lambda scale: mean(entropies(logits / scale)) < wanted, logits)


@torch.no_grad()
def fitted_scale(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the scalar s at which softmax(logits / s) has the least cross-entropy with the labels (B,), logits (B,C).

    Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks"). The loss is convex in 1 / s:
    where the logit of the label falls short of the mean logit under softmax(logits / s), a larger s lowers it.
    """
    logits = logits.double()
    reached = logits.gather(1, labels[:, None]).mean()

    def too_sharp(scale: Tensor) -> Tensor:
        return ((logits / scale).softmax(dim=1) * logits).sum(dim=1).mean() > reached

    return _halved(too_sharp, logits)


def _halved(too_small: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Return the scale at which `too_small`, true below it, turns false, as a scalar on the device of a tensor."""
    low, high = like.new_full((), -WIDEST_SCALE), like.new_full((), WIDEST_SCALE)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = too_small(middle.exp2())
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).exp2()


def disagreement(
    teacher_logits: Sequence[Tensor], labels: Tensor, other_labels: Tensor | None = None
) -> dict[str, Tensor]:
    """Return by name where the teachers disagree, (B,) booleans.

    pred: not all predict the same class; both_wrong: all are wrong; any_wrong: not all are right. Of a mixed image
    either label is right.
    """
    predicted = torch.stack([logits.argmax(dim=1) for logits in teacher_logits])
    right = predicted == labels
    if other_labels is not None:
        right = right | (predicted == other_labels)
    return {
        "pred": (predicted != predicted[0]).any(dim=0),
        "both_wrong": ~right.any(dim=0),
        "any_wrong": ~right.all(dim=0),
    }


# --- features -----------------------------------------------------------------------------------------


def feature_distance(student: Tensor, target: Tensor, norm: Norm = "none") -> Tensor:
    """Return the mean squared difference of every image's vectors (B,D), (B,); l2 makes them of length one first."""
    if norm == "l2":
        student, target = unit(student, dim=1), unit(target, dim=1)
    return (student - target).square().mean(dim=1)


def precision_distance(projected: Tensor, mu: Tensor, logvar: Tensor, epsilon: float) -> Tensor:
    """Return the sum over d of (z - mu)² / (sigma² + epsilon) of every image, (B,), for (B,D) each.

    The precisions are constant, and capped at the 99th percentile of the batch.
    """
    with torch.no_grad():
        precision = 1 / (logvar.exp() + epsilon)
        precision = precision.clamp(max=torch.quantile(precision.float().flatten(), OUTLIER))
    return (precision * (projected - mu).square()).sum(dim=1)


def angle_distance(projected: Tensor, mu: Tensor) -> Tensor:
    """Return 1 - cosine of every image's vectors, both (B,D), (B,); a vector of length zero is at distance one."""
    return 1 - (unit(projected, dim=1) * unit(mu, dim=1)).sum(dim=1)


def map_distance(student: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of maps (B,C,H,W) whose channels are of length one over space, a scalar.

    The target is resized to the student's size, its channels truncated or repeated to the student's number.
    """
    repeats = -(-student.shape[1] // target.shape[1])
    target = target.repeat(1, repeats, 1, 1)[:, : student.shape[1]]
    if target.shape[2:] != student.shape[2:]:
        target = F.interpolate(target, size=student.shape[2:], mode="bilinear", align_corners=False)
    return F.mse_loss(unit(student.flatten(2), dim=2), unit(target.flatten(2), dim=2))


# --- parameters ---------------------------------------------------------------------------------------


def mean_square(parameters: Iterable[Tensor]) -> Tensor | None:
    """Return the mean over tensors of the mean of their squared values; None without any tensor."""
    squares = [p.float().square().mean() for p in parameters]
    return torch.stack(squares).mean() if squares else None

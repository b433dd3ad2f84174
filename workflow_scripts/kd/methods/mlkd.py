"""Multi-level logit distillation of instances, batch and classes on two views (Jin, Wang and Lin 2023)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.randaugment import View
from kd.data.wants import Wants
from kd.methods._classes import require_three_classes
from kd.methods._standardise import standardise
from kd.methods.contract import Context, Method, Step

STRONG = "strong"
OTHER_TEMPERATURES = (3.0, 5.0)
"""Beside the setting; at these and at it, the released code distils the strong view too."""
WEAK_TEMPERATURES = (2.0, 6.0)
"""Where the released code takes the weak view for the strong one."""


class Views(NamedTuple):
    """Logits (B,C) of student and teacher on the weak and on the strong view."""

    student_weak: Tensor
    teacher_weak: Tensor
    student_strong: Tensor
    teacher_strong: Tensor


class Levels(NamedTuple):
    """The three losses, scalars."""

    instance: Tensor
    batch: Tensor
    classes: Tensor


def unsure_half(values: Tensor) -> Tensor:
    """Return 1 where a value (N,) is at most the median of all, else 0."""
    median = values.sort().values[(len(values) - 1) // 2]
    return (values <= median).to(values.dtype)


def masks(teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return masks of the images (B,) and of the classes (C,) that the teacher is less sure of than of the others.

    It is as sure of an image as its largest probability says, and of a class as its probability summed over the batch.
    """
    probabilities = F.softmax(teacher_logits.detach(), dim=1)
    return unsure_half(probabilities.amax(dim=1)), unsure_half(probabilities.sum(dim=0))


def at_temperatures(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Return logits (B,C) over each of T temperatures, (T,B,C): one operator a loss then serves all of them."""
    return torch.stack([logits / temperature for temperature in temperatures])


def instance_rows(student: Tensor, target: Tensor, temperatures: Sequence[float], standardize: bool) -> Tensor:
    """Return T^2 KL(teacher || student) of every image at every temperature, (T,B), for logits (B,C).

    Their means over images are the losses.
    """
    if standardize:
        student, target = standardise(student), standardise(target)
    own = F.log_softmax(at_temperatures(student, temperatures), dim=2)
    known = F.log_softmax(at_temperatures(target.detach(), temperatures), dim=2)
    rows = F.kl_div(own, known, reduction="none", log_target=True).sum(dim=2)
    return torch.stack([temperature**2 * row for temperature, row in zip(temperatures, rows.unbind(), strict=True)])


def gram_rows(student: Tensor, target: Tensor) -> Tensor:
    """Return the squared difference of the Gram matrices (...,N,N) of matrices (...,N,M), summed over each row."""
    return (student @ student.mT - target @ target.mT).square().sum(dim=-1)


def level_rows(student: Tensor, target: Tensor, temperatures: Sequence[float], standardize: bool) -> Levels:
    """Return what every image (T,B), image (T,B) and class (T,C) adds to the three levels, whose means are the losses.

    Gram matrices are of softened probabilities, never of standardised ones, as released with standardisation.
    """
    p, q = (F.softmax(at_temperatures(logits, temperatures), dim=2) for logits in (student, target.detach()))
    rows = instance_rows(student, target, temperatures, standardize)
    return Levels(rows, gram_rows(p, q), gram_rows(p.mT, q.mT))


def described_levels(views: Views, temperatures: Sequence[float], standardize: bool) -> Levels:
    """Return the three levels, summed over temperatures and both views, of what the masks leave.

    An image or a class that is masked out adds nothing; means are over all B images or C classes. The masks are the
    weak view's.
    """
    images, classes = masks(views.teacher_weak)
    of_views = [level_rows(*pair, temperatures, standardize) for pair in (views[:2], views[2:])]
    rows = (torch.cat(level) for level in zip(*of_views, strict=True))
    pairs = zip(rows, (images, images, classes), strict=True)
    return Levels(*((row * mask).mean(dim=1).sum() for row, mask in pairs))


def released_levels(views: Views, strong_at: Sequence[float], weak_at: Sequence[float], standardize: bool) -> Levels:
    """Return the three levels as the authors' code computes them, slips included.

    The weak view's losses are scalars before they meet the masks, so these scale them by their mean; the strong view's
    instance level is unmasked and takes the weak view at the temperatures `weak_at`; its other levels are left out.
    """
    images, classes = (mask.mean() for mask in masks(views.teacher_weak))
    rows = level_rows(views.student_weak, views.teacher_weak, (*strong_at, *weak_at), standardize)
    weak, batch, by_class = (level.mean(dim=1) for level in rows)
    strong = instance_rows(views.student_strong, views.teacher_strong, strong_at, standardize).mean(dim=1)
    unmasked = strong.sum() + weak[len(strong_at) :].sum()
    return Levels(images * weak.sum() + unmasked, images * batch.sum(), classes * by_class.sum())


class MLKD(Method):
    """Cross-entropy of both views, and distillation of instances, of batches and of classes."""

    def wants(self) -> Wants:
        """Want the strong view."""
        settings = self.settings
        return Wants(views=(View(STRONG, settings.strong_ops, settings.strong_magnitude, settings.strong_cutout),))

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that standardising leaves something to compare; the loss needs no modules."""
        if self.settings.standardize and self.settings.instance_weight:
            require_three_classes(self.name, context, "standardised logits")
        return nn.ModuleDict()

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss of both views and the three levels."""
        weak, strong = step.outputs, step.seen.views[STRONG]
        views = Views(*(output.logits for seen in (weak, strong) for output in (seen.student, seen.teacher)))
        strong_at, standardize = (self.settings.temperature, *OTHER_TEMPERATURES), self.settings.standardize
        if self.settings.form == "described":
            levels = described_levels(views, (*strong_at, *WEAK_TEMPERATURES), standardize)
        else:
            levels = released_levels(views, strong_at, WEAK_TEMPERATURES, standardize)
        students = (views.student_weak, views.student_strong)
        ce = torch.stack([step.batch.cross_entropy(logits) for logits in students]).sum()
        return {"ce": ce, "instance": levels.instance, "batch": levels.batch, "class": levels.classes}

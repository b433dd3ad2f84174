"""Multi-level logit distillation of instances, batch and classes on two views (Jin, Wang and Lin 2023)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.data.randaugment import View
from kd.data.wants import Wants
from kd.methods._standardise import standardise
from kd.methods.contract import Method, Step

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


def instance_rows(student: Tensor, target: Tensor, temperature: float, standardize: bool) -> Tensor:
    """Return T^2 KL(teacher || student) of every image, (B,), for logits (B,C); their mean is the loss."""
    if standardize:
        student, target = standardise(student), standardise(target)
    own = F.log_softmax(student / temperature, dim=1)
    known = F.log_softmax(target.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(own, known, reduction="none", log_target=True).sum(dim=1)


def gram_rows(student: Tensor, target: Tensor) -> Tensor:
    """Return the squared difference of the Gram matrices (N,N) of two matrices (N,M), summed over each row, (N,)."""
    return (student @ student.T - target @ target.T).square().sum(dim=1)


def level_rows(student: Tensor, target: Tensor, temperature: float, standardize: bool) -> Levels:
    """Return what every image (B,), image (B,) and class (C,) adds to the three levels, whose means are the losses.

    Gram matrices are of softened probabilities, never of standardised ones, as released with standardisation.
    """
    p, q = (F.softmax(logits / temperature, dim=1) for logits in (student, target.detach()))
    rows = instance_rows(student, target, temperature, standardize)
    return Levels(rows, gram_rows(p, q), gram_rows(p.T, q.T))


def described_levels(views: Views, temperatures: Sequence[float], standardize: bool) -> Levels:
    """Return the three levels, summed over temperatures and both views, of what the masks leave.

    An image or a class that is masked out adds nothing; means are over all B images or C classes. The masks are the
    weak view's.
    """
    images, classes = masks(views.teacher_weak)
    totals = [views.student_weak.new_zeros(()) for _ in Levels._fields]
    for student, target in ((views[0], views[1]), (views[2], views[3])):
        for temperature in temperatures:
            rows = level_rows(student, target, temperature, standardize)
            masked = zip(rows, (images, images, classes), strict=True)
            totals = [total + (row * mask).mean() for total, (row, mask) in zip(totals, masked, strict=True)]
    return Levels(*totals)


def released_levels(views: Views, strong_at: Sequence[float], weak_at: Sequence[float], standardize: bool) -> Levels:
    """Return the three levels as the authors' code computes them, slips included.

    The weak view's losses are scalars before they meet the masks, so these scale them by their mean; the strong view's
    instance level is unmasked and takes the weak view at the temperatures `weak_at`; its other levels are left out.
    """
    images, classes = (mask.mean() for mask in masks(views.teacher_weak))
    instance, batch, by_class = (views.student_weak.new_zeros(()) for _ in Levels._fields)
    for temperature in (*strong_at, *weak_at):
        rows = level_rows(views.student_weak, views.teacher_weak, temperature, standardize)
        instance = instance + images * rows.instance.mean()
        batch = batch + images * rows.batch.mean()
        by_class = by_class + classes * rows.classes.mean()
    for temperature in strong_at:
        strong = instance_rows(views.student_strong, views.teacher_strong, temperature, standardize)
        instance = instance + strong.mean()
    for temperature in weak_at:
        instance = instance + instance_rows(views.student_weak, views.teacher_weak, temperature, standardize).mean()
    return Levels(instance, batch, by_class)


class MLKD(Method):
    """Cross-entropy of both views, and distillation of instances, of batches and of classes."""

    def wants(self) -> Wants:
        """Want the strong view."""
        return Wants(views=(View(STRONG, self.settings.strong_ops, self.settings.strong_magnitude),))

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

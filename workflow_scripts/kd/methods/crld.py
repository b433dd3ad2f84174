"""CRLD: views and networks teach each other where the teacher is sure (Zhang, Liu, Cai and Ma 2024)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.data.randaugment import View
from kd.data.wants import Wants
from kd.methods._divergence import kl_rows
from kd.methods.contract import Method, Step

STRONG = "strong"


class Views(NamedTuple):
    """Logits (B,C) of student and teacher on the weak and on the strong view."""

    student_weak: Tensor
    teacher_weak: Tensor
    student_strong: Tensor
    teacher_strong: Tensor


class Consistency(NamedTuple):
    """The two losses, scalars."""

    within: Tensor
    cross: Tensor


def sure(teacher_logits: Tensor, confidence: float) -> Tensor:
    """Return 1 where the teacher gives an image's first choice at least that probability at T = 1, else 0, (B,)."""
    return (F.softmax(teacher_logits.detach(), dim=1).amax(dim=1) >= confidence).to(teacher_logits.dtype)


def crld_losses(
    views: Views, temperature: float, tau_weak: float, tau_strong: float, form: str = "released"
) -> Consistency:
    """Return T^2 KL(teacher || student) within each view and across the two, batch means.

    An image that is gated out adds 0 and counts in the mean. In form "released" what the teacher makes of the weak view
    gates both terms within views, and what it makes of the strong one both terms across; in form "described" each term
    is gated by the view on which its teacher is.
    """

    def rows(student: Tensor, target: Tensor) -> Tensor:
        return temperature**2 * kl_rows(student / temperature, target / temperature)

    weak, strong = sure(views.teacher_weak, tau_weak), sure(views.teacher_strong, tau_strong)
    within = rows(views.student_weak, views.teacher_weak), rows(views.student_strong, views.teacher_strong)
    cross = rows(views.student_strong, views.teacher_weak), rows(views.student_weak, views.teacher_strong)
    gates = ((weak, weak), (strong, strong)) if form == "released" else ((weak, strong), (weak, strong))
    pairs = zip(gates, (within, cross), strict=True)
    return Consistency(*((first * one + second * other).mean() for (first, second), (one, other) in pairs))


class CRLD(Method):
    """Cross-entropy of both views, and consistency within and across them."""

    def wants(self) -> Wants:
        """Want the strong view."""
        settings = self.settings
        return Wants(views=(View(STRONG, settings.strong_ops, settings.strong_magnitude, settings.strong_cutout),))

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss of both views and the two losses of consistency."""
        settings, weak, strong = self.settings, step.outputs, step.seen.views[STRONG]
        views = Views(*(output.logits for seen in (weak, strong) for output in (seen.student, seen.teacher)))
        found = crld_losses(views, settings.temperature, settings.tau_weak, settings.tau_strong, settings.form)
        students = (views.student_weak, views.student_strong)
        ce = torch.stack([step.batch.cross_entropy(logits) for logits in students]).sum()
        return {"ce": ce, "within_view": found.within, "cross_view": found.cross}

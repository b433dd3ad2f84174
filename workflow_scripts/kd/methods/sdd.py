"""Scale decoupled distillation: logits of every cell of the last map are distilled (Wei, Luo and Luo 2024)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._classes import other_classes, require_three_classes, target_or_not
from kd.methods._divergence import kl_rows
from kd.methods._features import last_layer, pool_to
from kd.methods._pooled import pooled_maps
from kd.methods._warmup import warmed_up
from kd.methods.contract import STUDENT, Context, Method, Output, Progress, Step, teacher
from kd.models.reuse import Pooled
from kd.tools.errors import UserError

FINEST = 4
"""Cells a side of the grid to which maps are averaged first, and coarser cells from it."""
SCALES = (1, 2, FINEST)
WEIGHTS = {"kd": {"ce": 0.1, "sdd": 0.9}, "dkd": {"ce": 1.0, "sdd": 1.0}}
"""Of the terms, by base, where the settings leave them to it."""


def cell_logits(
    feature: Tensor, weight: Tensor, bias: Tensor | None, scales: Sequence[int], form: str = "released"
) -> Tensor:
    """Return logits (B,N,C) of the cells of maps (B,D,H,W), scale by scale, from a classifier's weight and bias.

    Form "released" averages maps to 4x4, and the cells of coarser scales from that; form "described" averages the map
    itself for every scale, which is another number where its side is no multiple of 4. Maps that are smaller are
    repeated.
    """
    grid = F.adaptive_avg_pool2d(feature, FINEST) if form == "released" else feature
    cells = [pool_to(grid, (scale, scale)) for scale in scales]
    return F.linear(torch.cat([cell.flatten(2) for cell in cells], dim=2).transpose(1, 2), weight, bias)


def emphasis(cells: Tensor, whole: Tensor, labels: Tensor) -> Tensor:
    """Return 2 where a teacher's cell (B,N,C) is right and its whole map (B,1,C) wrong or the reverse, else 1.

    It is (B,N).
    """
    right, known = (logits.argmax(dim=2) == labels[:, None] for logits in (cells, whole))
    return 1.0 + (right != known).to(cells.dtype)


def sdd_loss(
    student: Tensor,
    target: Tensor,
    whole: Tensor,
    labels: Tensor,
    temperature: float,
    base: str = "kd",
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Return the mean over cells and images of T^2 times the base's divergence, weighed by `emphasis`.

    Logits of cells are (B,N,C), the teacher's on the whole map (B,1,C), labels (B,). Base "kd" is KL(teacher ||
    student), "dkd" alpha TCKD + beta NCKD.
    """
    own, known = student.flatten(0, 1) / temperature, target.detach().flatten(0, 1) / temperature
    if base == "kd":
        rows = kl_rows(own, known)
    else:
        own_labels = labels[:, None].expand(-1, student.shape[1]).flatten()
        rows = alpha * kl_rows(target_or_not(own, own_labels), target_or_not(known, own_labels))
        rows = rows + beta * kl_rows(other_classes(own, own_labels), other_classes(known, own_labels))
    return temperature**2 * (emphasis(target, whole, labels).flatten() * rows).mean()


class SDD(Method):
    """Cross-entropy and distillation of cells, by the divergence of kd or of dkd."""

    pooled: Mapping[str, Pooled] = MappingProxyType({})
    """The map whose average a network's classifier reads, by role; known once the networks have been seen."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Find the maps whose averages the classifiers read."""
        self.pooled = pooled_maps(self.name, context)
        return {role: (feature.tap,) for role, feature in self.pooled.items()}

    def build(self, context: Context) -> nn.ModuleDict:
        """Check scales and classes; the loss needs no modules."""
        scales = self.settings.scales
        if not scales or len(set(scales)) < len(scales) or not set(scales) <= set(SCALES):
            raise UserError(f"method sdd: scales must be one or several of 1, 2 and 4, each once, found {scales}")
        if self.settings.base == "dkd":
            require_three_classes("sdd with base dkd", context)
        return nn.ModuleDict()

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the loss of the cells."""
        settings, scales = self.settings, self.settings.scales
        student = self.cells(STUDENT, step.student, scales)
        target, whole = (self.cells(teacher(0), step.teacher, each) for each in (scales, (1,)))
        base = (settings.temperature, settings.base, settings.alpha, settings.beta)
        return {"ce": step.cross_entropy(), "sdd": sdd_loss(student, target, whole, step.batch.labels, *base)}

    def cells(self, role: str, output: Output, scales: Sequence[int]) -> Tensor:
        """Return what a network's own classifier makes of the cells of its last map."""
        weight, bias = last_layer(self.name, role, output)
        return cell_logits(self.pooled[role].of(output.taps), weight, bias, scales, self.settings.form)

    def weight(self, term: str, progress: Progress) -> float:
        """Return the base's weight where the setting is null; that of dkd is warmed up."""
        given = getattr(self.settings, f"{term}_weight")
        full = float(WEIGHTS[self.settings.base][term] if given is None else given)
        warms = term == "sdd" and self.settings.base == "dkd"
        return full * warmed_up(progress, self.settings.warmup_epochs) if warms else full

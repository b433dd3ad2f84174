"""Distillation of singular vectors: relations of the stages' leading directions match (Lee, Kim and Song 2018)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kd.methods._eigenvectors import Decomposed, Squared
from kd.methods._features import require_equal_channels, unit
from kd.methods.contract import Context, teacher
from kd.methods.tap_loss import TapLoss
from kd.tools.errors import UserError

CANDIDATES = 3
"""How many more directions of the student than of the teacher are looked at."""
WIDTH = 8.0


def on_host(feature: Tensor) -> bool:
    """Whether LAPACK decomposes: nobody waits for the CPU's answer, and it takes the directions' signs from there."""
    return feature.device.type == "cpu"


def leading_directions(feature: Tensor, count: int) -> Tensor:
    """Return the channel directions (B,C,count) along which maps (B,C,H,W) are largest, with a gradient that is safe.

    They are the right singular vectors of the map as (HW,C), through the smaller of its two Gram matrices, in float64,
    since eigenvalues are squares of singular values. Their signs are arbitrary.
    """
    rows, eigenvectors = feature.flatten(2).double(), (Decomposed if on_host(feature) else Squared).apply
    count = min(count, *rows.shape[1:])
    if rows.shape[1] <= rows.shape[2]:
        return eigenvectors(rows @ rows.mT, count).to(feature.dtype)
    return unit(rows @ eigenvectors(rows.mT @ rows, count), dim=1).to(feature.dtype)


@torch.no_grad()
def teacher_directions(feature: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading directions (B,C,count) of maps (B,C,H,W) and their singular values (B,count) as unit vectors.

    A direction's sign is whatever LAPACK's decomposition gives, as in the released code. Elsewhere its components add
    up to less than zero, which is LAPACK's sign too for the first direction of nearly every map behind a ReLU.
    """
    if on_host(feature):
        _, values, directions = torch.linalg.svd(feature.flatten(2).mT, full_matrices=False)
        return directions.mT[..., :count], unit(values[:, :count], dim=1)
    directions = leading_directions(feature, count)
    directions = torch.where(directions.sum(dim=1, keepdim=True) > 0, -directions, directions)
    values = torch.linalg.vector_norm(directions.double().mT @ feature.flatten(2).double(), dim=2)
    return directions, unit(values, dim=1).to(feature.dtype)


def aligned(candidates: Tensor, target: Tensor) -> Tensor:
    """Return for each target direction (B,C,k) the candidate (B,C,m) nearest to it in angle, with its sign."""
    cosine = (candidates.mT @ target).detach()
    nearest = cosine.abs().argmax(dim=1, keepdim=True)
    chosen = candidates.gather(2, nearest.expand(-1, candidates.shape[1], -1))
    return chosen * cosine.gather(1, nearest).sign()


def relation(first: Tensor, second: Tensor) -> Tensor:
    """Return exp(-difference^2 / 8) of every pair of entries (B,C1,C2,k) of directions (B,C1,k) and (B,C2,k)."""
    return torch.exp(-(second[:, :, None] - first[:, None]).square() / WIDTH)


def kdsvd_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], k: int = 1) -> Tensor:
    """Return squared differences of relations of neighbouring taps, summed over everything and divided by B.

    Maps are (B,C,H,W) with as many channels in both networks at each tap. Directions are scaled by the teacher's
    normalised singular values; the student's are those of its k + 3 leading ones that the teacher's are nearest to.
    """
    students, targets = [], []
    for student, target in zip(student_feats, teacher_feats, strict=True):
        directions, values = teacher_directions(target.detach(), k)
        targets.append(directions * values[:, None])
        students.append(aligned(leading_directions(student, k + CANDIDATES), directions) * values[:, None])
    total = student_feats[0].new_zeros(())
    for (s1, s2), (t1, t2) in zip(pairwise(students), pairwise(targets), strict=True):
        total = total + (relation(s1, s2) - relation(t1, t2)).square().sum()
    return total / len(student_feats[0])


class KDSVD(TapLoss):
    """Cross-entropy and relations of singular vectors."""

    term = "kdsvd"

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that the maps have equal channels and k singular values at least; there are no modules."""
        require_equal_channels(self.name, context)
        most = min(min(shape[0], shape[1] * shape[2]) for shape in context.features(teacher(0)))
        if self.settings.k > most:
            raise UserError(
                f"method kdsvd: the teacher's smallest map has {most} singular values, found k {self.settings.k}: "
                f"allowed are 1 to {most}"
            )
        return nn.ModuleDict()

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the relations' loss."""
        return kdsvd_loss(student, target, self.settings.k)

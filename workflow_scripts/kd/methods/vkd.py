"""VkD: an orthogonal projection of the student's features meets the teacher's normalised ones (Miles et al. 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods.contract import STUDENT, Context, Step, teacher
from kd.methods.kd import kd_loss
from kd.methods.tap_loss import TapLoss


def vkd_loss(projected: Tensor, target: Tensor) -> Tensor:
    """Return the mean smooth L1 distance (beta 1) of projected student embeddings (B,D) to the teacher's.

    The teacher's are shifted and scaled to mean 0 and variance 1, image by image.
    """
    return F.smooth_l1_loss(projected, F.layer_norm(target.detach(), target.shape[1:]))


class Orthogonal(nn.Module):
    """A linear map without bias that stays orthogonal, whatever an optimiser does to its parameter.

    The longer side of its matrix, n, is that of Q = B H, with a fixed orthogonal B (n,n), drawn at the start, and H
    (n,k) the first columns of the product of k reflections; the parameter holds their vectors below the diagonal and is
    0 at the start, where Q is B's first columns. This is torch's parametrisation by reflections without the signs that
    it keeps on the diagonal of the parameter: it cuts them to integers, so that the first step of weight decay makes 0
    of them and of the whole projection.
    """

    base: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        n, k = max(inputs, outputs), min(inputs, outputs)
        self.wide = inputs > outputs
        self.reflections = nn.Parameter(torch.zeros(n, k))
        self.register_buffer("base", nn.init.orthogonal_(torch.empty(n, n)))

    @property
    def weight(self) -> Tensor:
        """The matrix (outputs,inputs): orthonormal columns, or rows where there are more inputs than outputs."""
        q = self.base @ reflected(self.reflections)
        return q.T if self.wide else q

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B,outputs) of features (B,inputs)."""
        return F.linear(feature, self.weight)


def reflected(vectors: Tensor) -> Tensor:
    """Return minus the first k columns of H_1 ... H_k, (n,k) with orthonormal columns.

    H_j reflects at v_j, which is 1 at j, 0 above and column j of `vectors` (n,k) below. The product is I - V T V' with
    one triangular T, whose inverse holds <v_i, v_j> above the diagonal and |v_j|^2 / 2 on it (the compact form of
    Schreiber and Van Loan 1989): matrix products and one triangular solution, of which no device waits for the host.
    """
    n, k = vectors.shape
    columns = torch.eye(n, k, dtype=vectors.dtype, device=vectors.device)
    v = vectors.tril(-1) + columns
    inner = v.T @ v
    triangle = inner.triu(1) + torch.diag_embed(inner.diagonal() / 2)
    return v @ torch.linalg.solve_triangular(triangle, v[:k].T, upper=True) - columns


class VkD(TapLoss):
    """Cross-entropy, logits and features behind an orthogonal projection."""

    term = "vkd"
    maps = False

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one projection a pair of taps."""
        pairs = zip(context.features(STUDENT), context.features(teacher(0)), strict=True)
        projections = [Orthogonal(own[0], other[0]) for own, other in pairs]
        return nn.ModuleDict({"projections": nn.ModuleList(projections)})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the distances of averages over positions; vectors are taken as they are."""
        total = student[0].new_zeros(())
        for project, own, other in zip(extra["projections"].children(), student, target, strict=True):
            total = total + vkd_loss(project(averaged(own)), averaged(other))
        return total

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of labels, of features and of softened logits."""
        kd = kd_loss(step.student.logits, step.teacher.logits, self.settings.temperature)
        return {**super().loss(step), "kd": kd}


def averaged(feature: Tensor) -> Tensor:
    """Return (B,C) the averages over positions of maps (B,C,H,W); vectors (B,C) stay."""
    return feature.flatten(2).mean(dim=2) if feature.ndim > 2 else feature

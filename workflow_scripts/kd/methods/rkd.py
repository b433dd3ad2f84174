"""Relational knowledge distillation: distances and angles between the images of a batch match (Park et al. 2019)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kd.data.wants import Groups, Wants
from kd.methods._features import EMBEDDING, unit
from kd.methods.contract import STUDENT, Context, Method, Output, Step, teacher

SMALLEST = 1e-12
BLOCK = 2**24
"""How many floats the largest tensor of a block of angles may have (64 MiB)."""


def distances(embedding: Tensor) -> Tensor:
    """Return Euclidean distances (B,B) of embeddings (B,D) over their mean; zero on the diagonal.

    Squares are clamped before the root, so that equal embeddings take no gradient instead of NaN.
    """
    centred = embedding - embedding.mean(dim=0)  # leaves distances as they are, and less to cancel
    squares = centred.square().sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2 * centred @ centred.T
    off_diagonal = 1 - torch.eye(len(embedding), device=embedding.device, dtype=embedding.dtype)
    distance = squared.clamp(min=SMALLEST).sqrt() * off_diagonal
    mean = distance.sum() / max(1, len(embedding) * (len(embedding) - 1))
    return distance / mean.clamp(min=SMALLEST)


def distance_loss(student: Tensor, target: Tensor) -> Tensor:
    """Return the mean over B^2 of the smooth L1 difference of normalised distances (section 3.2.1 of the paper)."""
    return F.smooth_l1_loss(distances(student), distances(target.detach()))


def angle_loss(student: Tensor, target: Tensor) -> Tensor:
    """Return the mean over B^3 of the smooth L1 difference of the cosines of angles i-j-k (section 3.2.2).

    Vertices j are taken in blocks; several blocks are computed anew for the gradient instead of being kept, so that
    memory grows with B^2 and not with B^3.
    """
    size, target = len(student), target.detach()
    block = max(1, BLOCK // (size * max(size, student.shape[1], target.shape[1])))
    if block >= size:
        return _angles(student, target, 0, size) / size**3
    total = student.new_zeros(())
    for start in range(0, size, block):
        total = total + checkpoint(
            _angles, student, target, start, start + block, use_reentrant=False, preserve_rng_state=False
        )
    return total / size**3


def _angles(student: Tensor, target: Tensor, start: int, stop: int) -> Tensor:
    return F.smooth_l1_loss(_cosines(student, start, stop), _cosines(target, start, stop), reduction="sum")


def _cosines(embedding: Tensor, start: int, stop: int) -> Tensor:
    """Return the cosines (vertices,B,B) of the angles that two embeddings span at a vertex."""
    edges = unit(embedding[None, :, :] - embedding[start:stop, None, :], dim=2)
    return edges @ edges.transpose(1, 2)


class RKD(Method):
    """Cross-entropy, distances and angles, of pooled features or of logits."""

    def wants(self) -> Wants:
        """Want balanced batches, if asked for."""
        size = self.settings.per_class
        return Wants(groups=None if size is None else Groups(size, "balanced"))

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the pooled features, if they are compared."""
        return {} if self.settings.embed == "logits" else {STUDENT: (EMBEDDING,), teacher(0): (EMBEDDING,)}

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss, the distance loss and the angle loss."""
        student, target = self.compared(step.student), self.compared(step.teacher)
        return {
            "ce": step.cross_entropy(),
            "distance": distance_loss(student, target),
            "angle": angle_loss(student, target),
        }

    def compared(self, output: Output) -> Tensor:
        """Return the vectors (B,D) whose relations are compared."""
        return output.logits if self.settings.embed == "logits" else output.taps[EMBEDDING]

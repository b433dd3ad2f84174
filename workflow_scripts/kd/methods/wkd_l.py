"""WKD-L: probabilities of other classes match at the least transport cost (Lv, Yang and Li 2024)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._classes import require_three_classes, target_term
from kd.methods._decay import cosine_share
from kd.methods._features import EMBEDDING, last_layer
from kd.methods.contract import STUDENT, Context, Look, Method, Output, Progress, Step, teacher

DISTANCES = "distances"
EPSILON = 1e-8
"""Added to every cost and to every denominator of Sinkhorn's rounds, as released."""
MOST_VALUES = 2**27
"""Values of features that are kept at a time (half a GB); classes of a larger data set are looked at in blocks."""


# --- distances between classes ----------------------------------------------------------------------------


def centred_rows(feature: Tensor) -> Tensor:
    """Return maps (n,D,H,W), or vectors (n,D), as rows (n*H*W,D), image by image, with columns of mean 0."""
    rows = feature.flatten(2).transpose(1, 2).flatten(0, 1) if feature.ndim > 2 else feature
    return rows - rows.mean(dim=0)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Return ||A' B||_F^2 of centred rows A and B (n,D), through the smaller of the two kinds of products."""
    if first.shape[0] < first.shape[1]:
        return ((first @ first.T) * (second @ second.T)).sum()
    return (first.T @ second).square().sum()


def members_of(labels: Tensor, classes: int) -> list[Tensor]:
    """Return the positions of as many images of every class as the smallest has, in order; none where there are none.

    Linear CKA pairs the n-th image of one class with the n-th of another, so it depends on the order of the data.
    """
    found = [(labels == label).nonzero().flatten() for label in range(classes)]
    length = min(len(positions) for positions in found if len(positions))
    return [positions[:length] for positions in found]


def cka_distances(
    members: Sequence[Tensor], rows_of: Callable[[Tensor], Tensor], most_values: int = MOST_VALUES
) -> Tensor:
    """Return 1 - linear CKA between the features of every two classes, (C,C).

    `rows_of` gives the centred rows of images by position. A class without images, or whose rows are all equal, is at
    distance 1 from every other. Two blocks of classes are in memory at a time.
    """
    distances = 1 - torch.eye(len(members))
    shown = [label for label, positions in enumerate(members) if len(positions)]
    size = max(1, most_values // rows_of(members[shown[0]]).numel())
    blocks = [shown[start : start + size] for start in range(0, len(shown), size)]
    for number, block in enumerate(blocks):
        own = {label: rows_of(members[label]) for label in block}
        for further in blocks[number:]:
            other = own if further is block else {label: rows_of(members[label]) for label in further}
            for i, first in own.items():
                for j, second in other.items():
                    if i < j:
                        distances[i, j] = distances[j, i] = 1 - cka(first, second).item()
    return distances


def cka(first: Tensor, second: Tensor) -> Tensor:
    """Return the linear CKA of centred rows (n,D), a scalar from 0 to 1; 0 where one of them does not vary."""
    # of each by itself: their product is beyond float32 for maps of large values
    scale = alignment(first, first).sqrt() * alignment(second, second).sqrt()
    return torch.where(scale > 0, alignment(first, second) / scale, 0.0)


def cosine_distances(weight: Tensor) -> Tensor:
    """Return 1 - cosine between the rows (C,D) of a classifier, (C,C)."""
    rows = F.normalize(weight.detach(), dim=1)
    return 1 - rows @ rows.T


# --- the loss ---------------------------------------------------------------------------------------------


def others(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return probabilities (B,C) at a temperature of every class but the label (B,), which has exactly 0."""
    return (logits / temperature).scatter(1, labels[:, None], -torch.inf).softmax(dim=1)


def transport_cost(
    student: Tensor, target: Tensor, labels: Tensor, cost: Tensor, sinkhorn_lambda: float, iterations: int
) -> Tensor:
    """Return what it costs, (B,), to carry probabilities (B,C) to others by rounds of Sinkhorn, far from converged.

    Both are 0 at the label (B,), which so takes no part: masses stay 0 there, as if row and column of the label were
    left out of cost (C,C) for each image. Gradients run through all rounds.
    """
    cost = F.relu(cost) + EPSILON
    kernel = torch.exp(-cost / sinkhorn_lambda)
    rows = torch.full_like(student, 1 / (student.shape[1] - 1)).scatter(1, labels[:, None], 0.0)
    for _ in range(iterations):
        columns = target / (rows @ kernel + EPSILON)
        rows = student / (columns @ kernel.T + EPSILON)
    return ((rows @ (kernel * cost)) * columns).sum(dim=1)


def transport_term(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    cost: Tensor,
    temperature: float,
    sinkhorn_lambda: float,
    iterations: int,
) -> Tensor:
    """Return the batch mean of the transport cost between the other classes' probabilities, for logits (B,C)."""
    own = others(student_logits, labels, temperature)
    known = others(teacher_logits.detach(), labels, temperature)
    return transport_cost(own, known, labels, cost, sinkhorn_lambda, iterations).mean()


class ClassDistances(nn.Module):
    """Distances (C,C) of the teacher's classes, which the pre-stage finds."""

    values: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("values", 1 - torch.eye(classes))

    def forward(self, sharpness: float) -> Tensor:
        """Return the costs (C,C) of carrying probability from one class to another, from 0 to 1."""
        return 1 - torch.exp(-sharpness * self.values)


class WKDL(Method):
    """Cross-entropy, the label's probability, and transport between the others, after a pre-stage of distances."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the teacher's last map (or pooled vector) in the pre-stage, in which there is no student."""
        if STUDENT in context.taps or self.settings.distances == "classifier":
            return {}
        role = teacher(0)
        return {role: context.resolve(role, ("last",)) if context.stages[role] else (EMBEDDING,)}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the distances, which the pre-stage fills and a training loads."""
        if self.settings.wkd_weight:
            require_three_classes(self.name, context)
        if self.settings.distances == "classifier" and STUDENT not in context.taps:
            self.rows(context.models[teacher(0)].classifier)
        return nn.ModuleDict({DISTANCES: ClassDistances(context.num_classes)})

    def survey(self, extra: nn.ModuleDict, labels: Tensor, look: Look) -> None:
        """Measure the distances on all training images, without augmentation."""
        distances = extra[DISTANCES]
        assert isinstance(distances, ClassDistances)
        if self.settings.distances == "classifier":
            distances.values.copy_(cosine_distances(self.rows(look(torch.zeros(1, dtype=torch.int64)).classifier)))
            return

        def rows_of(positions: Tensor) -> Tensor:
            (feature,) = look(positions).features
            return centred_rows(feature)

        distances.values.copy_(cka_distances(members_of(labels, len(distances.values)), rows_of))

    def rows(self, classifier: nn.Module | None) -> Tensor:
        """Return the rows (C,D) of the teacher's classifier; one that is not linear is a UserError."""
        weight, _ = last_layer(self.name, teacher(0), Output(torch.empty(0), {}, classifier))
        return weight

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss, the label's term and the transport cost."""
        settings, labels = self.settings, step.batch.labels
        student, target = step.student.logits, step.teacher.logits
        cost = step.extra[DISTANCES](settings.sharpness)
        rounds = (settings.temperature, settings.sinkhorn_lambda, settings.sinkhorn_iterations)
        return {
            "ce": step.cross_entropy(),
            "target": target_term(student, target, labels),
            "wkd": transport_term(student, target, labels, cost, *rounds),
        }

    def weight(self, term: str, progress: Progress) -> float:
        """Let the transport's weight fall to 0 in the last part of the training."""
        full = super().weight(term, progress)
        return full * cosine_share(progress, self.settings.decay_from) if term == "wkd" else full

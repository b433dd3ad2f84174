"""ND, the loss of KD++: features as long as the teacher's, along the mean of their class (Wang et al. 2023)."""

import torch
from torch import Tensor, nn

from kd.methods._features import EMBEDDING, ZERO_SQUARE, unit
from kd.methods.contract import STUDENT, Context, Look, Method, Step, teacher

MEANS = "class_means"
AT_ONCE = 4096
"""Images whose features are asked for at a time."""


def nd_loss(student: Tensor, target: Tensor, means: Tensor, labels: Tensor) -> Tensor:
    """Return the batch mean of 1 - <s, c_y / |c_y|> / max(|s|, |t|).

    Embeddings are (B,D), the teacher's class means (classes,D), labels (B,). Where |s| is the larger the gradient runs
    through it too. Two embeddings of length zero divide by 1.
    """
    directions = unit(means.detach(), dim=1).index_select(0, labels)
    own, known = (torch.linalg.vector_norm(vectors, dim=1) for vectors in (student, target.detach()))
    lengths = torch.where(known > own, known, own)
    divisors = torch.where(lengths.square() <= ZERO_SQUARE, 1.0, lengths)
    return 1 - (torch.linalg.vecdot(student, directions) / divisors).mean()


class ClassMeans(nn.Module):
    """The teacher's mean embedding (classes,D) of every class, which the pre-stage finds."""

    values: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(classes, width))


class ND(Method):
    """Cross-entropy and the length and direction of features, after a pre-stage that averages the teacher's."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the pooled features; in the pre-stage there is no student."""
        return {role: (EMBEDDING,) for role in (STUDENT, teacher(0)) if role in context.taps}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the class means and, where the student's features are of another width, what widens them."""
        width = context.features(teacher(0))[0].numel()
        modules: dict[str, nn.Module] = {MEANS: ClassMeans(context.num_classes, width)}
        if STUDENT in context.named and (own := context.features(STUDENT)[0].numel()) != width:
            linear = nn.Linear(own, width)
            nn.init.zeros_(linear.bias)
            modules["projector"] = nn.Sequential(nn.BatchNorm1d(own), nn.Dropout(self.settings.dropout), linear)
        return nn.ModuleDict(modules)

    def survey(self, extra: nn.ModuleDict, labels: Tensor, look: Look) -> None:
        """Average the features of every class over one pass of the training images."""
        means = extra[MEANS]
        assert isinstance(means, ClassMeans)
        sums = torch.zeros(means.values.shape, dtype=torch.float64)
        for positions in torch.arange(len(labels)).split(AT_ONCE):
            feature = look(positions, augmented=self.settings.augmented).taps[EMBEDDING]
            sums.index_add_(0, labels[positions], feature.double().cpu())
        counts = torch.bincount(labels, minlength=len(sums)).clamp_min(1)
        means.values.copy_(sums / counts[:, None])

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the loss of length and direction."""
        means, student = step.extra[MEANS], step.student.taps[EMBEDDING]
        assert isinstance(means, ClassMeans)
        if "projector" in step.extra:
            student = step.extra["projector"](student)
        return {
            "ce": step.cross_entropy(),
            "nd": nd_loss(student, step.teacher.taps[EMBEDDING], means.values, step.batch.labels),
        }

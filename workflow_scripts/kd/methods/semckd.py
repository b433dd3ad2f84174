"""SemCKD: every student stage learns every teacher stage, as much as attention says (Chen et al. 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._features import pool_match, require_maps, unit
from kd.methods.contract import STUDENT, Context, Method, Step, teacher
from kd.methods.kd import kd_loss
from kd.tools.errors import UserError


def relations(feature: Tensor, width: int) -> Tensor:
    """Return (B,width) the inner products of every image with the batch's first ones, features (B, ...) flattened.

    A batch of `width` images, the usual one, is related to itself; in a smaller one the images that are not there are
    at 0.
    """
    rows = feature.flatten(1)
    found = rows @ rows[:width].T
    return F.pad(found, (0, width - found.shape[1]))


class Embed(nn.Module):
    """Two linear layers with a ReLU between them, from relations (B,width) to unit vectors (B,D)."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, 2 * outputs)
        self.linear2 = nn.Linear(2 * outputs, outputs)

    def forward(self, related: Tensor) -> Tensor:
        """Return the unit vectors."""
        return unit(self.linear2(F.relu(self.linear1(related))), dim=1)


class Attention(nn.Module):
    """How much each stage of the student learns of each of the teacher's, image by image."""

    def __init__(self, student_stages: int, teacher_stages: int, width: int, factor: int) -> None:
        super().__init__()
        self.width, outputs = width, max(1, width // factor)
        self.query = nn.ModuleList([Embed(width, outputs) for _ in range(student_stages)])
        self.key = nn.ModuleList([Embed(width, outputs) for _ in range(teacher_stages)])

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
        """Return (B,S,T), for each stage of the student a softmax over the teacher's (equation 5 of the paper)."""
        queries, keys = (
            torch.stack(
                [embed(relations(feature, self.width)) for embed, feature in zip(own, features, strict=True)], 1
            )
            for own, features in ((self.query, student_feats), (self.key, teacher_feats))
        )
        return (queries @ keys.transpose(1, 2)).softmax(dim=2)


def semckd_loss(attention: Tensor, values: Sequence[Sequence[Tensor]], targets: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return sum_ij a_ij(b) mean (value_ij - target_ij)^2, averaged over images b and student stages i.

    Attention is (B,S,T); values and targets are maps of one shape for each stage i of the student and j of the teacher.
    """
    distances = [
        [(v - t.detach()).square().flatten(1).mean(dim=1) for v, t in zip(own, known, strict=True)]
        for own, known in zip(values, targets, strict=True)
    ]
    errors = torch.stack([torch.stack(row, dim=1) for row in distances], dim=1)
    return (attention * errors).sum() / (attention.shape[0] * attention.shape[1])


def regressor(inputs: int, outputs: int) -> nn.Sequential:
    """Return 1x1, 3x3 and 1x1 convolutions, BatchNorm and ReLU behind all but the last, twice the teacher's width."""
    inner = 2 * outputs
    return nn.Sequential(
        nn.Conv2d(inputs, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, outputs, 1, bias=False),
    )


class SemCKD(Method):
    """Cross-entropy, softened logits, and teacher stages that attention assigns to student stages."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the stages of both networks, which need not be as many."""
        asked = {STUDENT: self.settings.student_stages, teacher(0): self.settings.teacher_stages}
        found = {role: context.resolve(role, names) for role, names in asked.items()}
        for role, names in found.items():
            if not names:
                raise UserError(f"method {self.name} needs at least one map of the {role}, which has no stages")
        require_maps(self.name, context, found)
        return found

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the attention, which relates as many images as a batch has, and a connector a pair of stages."""
        assert context.batch_size > 0, "the attention is as wide as a batch"
        student, target = context.features(STUDENT), context.features(teacher(0))
        attention = Attention(len(student), len(target), context.batch_size, self.settings.factor)
        connectors = [nn.ModuleList([regressor(own[0], other[0]) for other in target]) for own in student]
        return nn.ModuleDict({"attention": attention, "connectors": nn.ModuleList(connectors)})

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of labels, of stages and of softened logits."""
        student, target = step.student.features, step.teacher.features
        attention = step.extra["attention"](student, target)
        values, targets = [], []
        for connectors, own in zip(step.extra["connectors"].children(), student, strict=True):
            pairs = [pool_match(own, other) for other in target]
            values.append([connect(s) for connect, (s, _) in zip(connectors.children(), pairs, strict=True)])
            targets.append([t for _, t in pairs])
        return {
            "ce": step.cross_entropy(),
            "semckd": semckd_loss(attention, values, targets),
            "kd": kd_loss(step.student.logits, step.teacher.logits, self.settings.temperature),
        }

"""CA-MKD: several teachers, each weighted image by image by how right it is (Zhang, Chen and Wang 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._connectors import projection
from kd.methods._features import EMBEDDING, pool_match
from kd.methods._teams import all_logits, divergences
from kd.methods.contract import STUDENT, Batch, Context, Method, Output, Progress, Step, of_teachers, teacher
from kd.models.base import pool
from kd.models.reuse import Pooled, last_map, pooled_feature


def confidence_weights(cross_entropies: Tensor, form: str) -> Tensor:
    """Return weights (K,B) for cross-entropies (K,B) with the labels: (1 - softmax over teachers) / (K - 1).

    They add up to 1 (equations 2 and 6 of the paper). form "released" divides by K once more.
    """
    teachers = len(cross_entropies)
    weights = (1 - cross_entropies.detach().softmax(dim=0)) / (teachers - 1)
    return weights / teachers if form == "released" else weights


def camkd_loss(student_logits: Tensor, teacher_logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return the batch mean of the sum over teachers (K,B,C) of weights (K,B) times T^2 KL(teacher || student)."""
    return (weights * divergences(student_logits, teacher_logits, temperature)).sum(dim=0).mean()


def feature_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the batch mean of the sum over teachers of weights (K,B) times the image's mean squared difference.

    The features of each pair are connected student maps and teacher maps (B,C,H,W) of one shape.
    """
    pairs = zip(student_feats, teacher_feats, strict=True)
    distances = [(s - t.detach()).square().flatten(1).mean(dim=1) for s, t in pairs]
    return (weights * torch.stack(distances)).sum(dim=0).mean()


class Connector(nn.Module):
    """Student maps at a teacher's channels, as its classifier would read them."""

    def __init__(self, inputs: int, outputs: int, rectify: bool) -> None:
        super().__init__()
        self.projection = projection(inputs, outputs)
        self.activation = nn.ReLU() if rectify else nn.Identity()

    def forward(self, feature: Tensor) -> Tensor:
        """Project maps (B,C,H,W)."""
        return self.activation(self.projection(feature))


class CAMKD(Method):
    """Cross-entropy, teachers weighted by their cross-entropy, and features weighted by how each teacher reads them."""

    read: tuple[Pooled, ...] = ()
    """What the student gives, then what each teacher's classifier reads; known once the networks have been seen."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Find the map that each network's classifier reads, or take the pooled vectors."""
        targets = [pooled_feature(network, context.image_size) for network in of_teachers(context.models)]
        if self.settings.features == "map":
            self.read = (last_map(context.models[STUDENT], context.image_size), *targets)
        else:
            vectors = [Pooled(EMBEDDING, False, feature.nonnegative) for feature in targets]
            self.read = (Pooled(EMBEDDING, False, False), *vectors)
        roles = [STUDENT, *(teacher(k) for k in range(self.teachers))]
        return {role: (feature.tap,) for role, feature in zip(roles, self.read, strict=True)}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one connector a teacher."""
        (inputs, *_), *targets = (shape for role in context.named for shape in context.features(role))
        connectors = [Connector(inputs, t[0], read.nonnegative) for t, read in zip(targets, self.read[1:], strict=True)]
        return nn.ModuleDict({"connectors": nn.ModuleList(connectors)})

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss, the distillation of logits and that of features."""
        settings, target = self.settings, all_logits(step.teachers)
        weights = confidence_weights(_cross_entropies(step.batch, target), settings.form)
        return {
            "ce": step.cross_entropy(),
            "kd": camkd_loss(step.student.logits, target, weights, settings.temperature),
            "feature": self.feature(step),
        }

    def feature(self, step: Step) -> Tensor:
        """Return the feature loss; each teacher's weight is how well it classifies the student's connected map."""
        source, *reads = self.read
        own = source.of(step.student.taps)
        students, targets, classified = [], [], []
        for connector, read, output in zip(step.extra["connectors"].children(), reads, step.teachers, strict=True):
            shrunk, target = pool_match(own, read.of(output.taps))
            students.append(connector(shrunk))
            targets.append(target)
            classified.append(_classified(output, students[-1]))
        weights = confidence_weights(_cross_entropies(step.batch, torch.stack(classified)), self.settings.form)
        return feature_loss(students, targets, weights)

    def weight(self, term: str, progress: Progress) -> float:
        """Leave the features out of the first epoch, as the released code does, unless asked not to."""
        waits = term == "feature" and progress.epoch < 1 and not self.settings.first_epoch
        return 0.0 if waits else super().weight(term, progress)


@torch.no_grad()
def _cross_entropies(batch: Batch, logits: Tensor) -> Tensor:
    """Return (K,B): the classification loss of every teacher and image, for logits (K,B,C)."""
    return torch.stack([batch.cross_entropies(found) for found in logits])


@torch.no_grad()
def _classified(output: Output, feature: Tensor) -> Tensor:
    """Return what a teacher's classifier makes of the average of maps (B,C,H,W): logits (B,classes)."""
    weight, bias = (getattr(output.classifier, name, None) for name in ("weight", "bias"))
    assert isinstance(weight, Tensor), "a classifier has weights"
    return F.linear(pool(feature), weight.flatten(1), bias)

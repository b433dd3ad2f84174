"""BYOT: a network's shallow exits learn from its deepest (Zhang, Song, Gao, Chen, Bao and Ma 2019)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._connectors import connected
from kd.methods._features import pool_to, require_maps
from kd.methods.contract import STUDENT, Context, Method, Output, Outputs, Progress, Step
from kd.models.base import initialise, pool
from kd.tools.errors import UserError

FEATURE_WEIGHTS = {"released": 1e-6, "mean": 0.03, "official": 0.03}
"""Weight of the feature loss that each form was published with."""


def soft_cross_entropy(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """Return the batch mean of -sum q log p for p and q the softmax at a temperature of logits (B,C); q is detached.

    It differs from KL(q || p) by the entropy of q, and has the same gradient.
    """
    own = F.log_softmax(logits / temperature, dim=1)
    target = F.softmax(target_logits.detach() / temperature, dim=1)
    return -torch.linalg.vecdot(target, own).mean()


def exit_distillation(shallow: Sequence[Tensor], deepest: Tensor, temperature: float, form: str) -> Tensor:
    """Return the sum over shallow exits of the soft cross-entropy with the deepest exit's logits (B,C), times T^2.

    form "official" has no T^2, as the authors' script.
    """
    scale = 1.0 if form == "official" else temperature**2
    losses = [soft_cross_entropy(logits, deepest, temperature) for logits in shallow]
    return scale * torch.stack(losses).sum()


def exit_features(shallow: Sequence[Tensor], deepest: Tensor, form: str) -> Tensor:
    """Return the sum over shallow exits, shallow to deep, of the distance of features (B, ...) to the deepest.

    The deepest is detached. form "released": the sum of squared differences over the batch, where either is positive;
    "mean": the mean of all squared differences; "official": the length of the difference, as one vector over the
    batch, for all but the last shallow exit.
    """
    if form == "official":
        shallow = shallow[:-1]
    return sum((_distance(f, deepest.detach(), form) for f in shallow), start=deepest.new_zeros(()))


def _distance(feature: Tensor, target: Tensor, form: str) -> Tensor:
    if form == "official":
        return torch.linalg.vector_norm(feature - target)
    squared = (feature - target).square()
    return torch.where((feature > 0) | (target > 0), squared, 0.0).sum() if form == "released" else squared.mean()


class Exit(nn.Module):
    """A bottleneck that brings a stage to the shape of the deepest one, and a classifier on its average."""

    def __init__(self, stage: torch.Size, deepest: torch.Size, num_classes: int) -> None:
        super().__init__()
        inner = max(1, deepest[0] // 4)
        strides = (max(1, stage[1] // deepest[1]), max(1, stage[2] // deepest[2]))
        self.bottleneck = nn.Sequential(
            nn.Conv2d(stage[0], inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, strides, strides),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, deepest[0], 1),
            nn.BatchNorm2d(deepest[0]),
            nn.ReLU(),
        )
        self.size = (deepest[1], deepest[2])
        self.fc = nn.Linear(deepest[0], num_classes)
        initialise(self)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps of the deepest stage's shape (C,H,W) and the logits (B,classes)."""
        maps = pool_to(self.bottleneck(feature), self.size)
        return maps, self.fc(pool(maps))


class BYOT(Method):
    """Cross-entropy of every exit; the shallow ones also learn the deepest one's logits and features.

    The deepest exit is the student itself, which is what is deployed.
    """

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the maps that exits stand on, the deepest last; fewer than two are a UserError."""
        found = {STUDENT: context.resolve(STUDENT, self.settings.exits)}
        require_maps(self.name, context, found)
        if len(found[STUDENT]) < 2:
            raise UserError(
                "method byot: exits must name two or more maps, the deepest last, found "
                f"{', '.join(found[STUDENT]) or 'none'}"
            )
        return found

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one branch for each stage but the deepest."""
        *shallow, deepest = context.features(STUDENT)
        exits = [Exit(stage, deepest, context.num_classes) for stage in shallow]
        return nn.ModuleDict({"exits": nn.ModuleList(exits)})

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification losses of the deepest and of the shallow exits, and the two self-distillations."""
        settings, student = self.settings, step.student
        maps, logits = self.exits(student, step.extra)
        deepest = student.features[-1]
        if settings.features == "pooled":
            maps, deepest = [pool(feature) for feature in maps], pool(deepest)
        return {
            "ce": step.cross_entropy(),
            "exit_ce": torch.stack([step.batch.cross_entropy(found) for found in logits]).sum(),
            "exit_kd": exit_distillation(logits, student.logits, settings.temperature, settings.form),
            "feature": exit_features(maps, deepest, settings.form),
        }

    def exits(self, student: Output, extra: nn.ModuleDict) -> tuple[list[Tensor], list[Tensor]]:
        """Return maps and logits of the shallow exits, shallow to deep."""
        found = connected(extra["exits"], student.features[:-1])
        return [maps for maps, _ in found], [logits for _, logits in found]

    def heads(self, outputs: Outputs, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return the logits of every shallow exit and, as the ensemble, their mean with the student's."""
        _, logits = self.exits(outputs.student, extra)
        ensemble = torch.stack([*logits, outputs.student.logits]).mean(dim=0)
        return {**{f"exit{k}": found for k, found in enumerate(logits, start=1)}, "ensemble": ensemble}

    def weight(self, term: str, progress: Progress) -> float:
        """Share exits between labels and the deepest exit; the official form gives the deepest one its full loss."""
        settings = self.settings
        if term == "feature":
            own = settings.feature_weight
            return float(FEATURE_WEIGHTS[settings.form] if own is None else own)
        if term == "exit_kd":
            return float(settings.alpha)
        return 1.0 if term == "ce" and settings.form == "official" else 1.0 - float(settings.alpha)

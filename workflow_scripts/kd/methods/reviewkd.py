"""ReviewKD: deeper student stages, fused level by level, reproduce shallower teacher stages (Chen et al. 2021)."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._features import EMBEDDING
from kd.methods.contract import STUDENT, Context, Progress, teacher
from kd.methods.tap_loss import TapLoss

log = logging.getLogger(__name__)

LEVELS = (4, 2, 1)
MOST_CHANNELS = 512
"""Maps are fused at the width of the student's pooled vector, but at no more channels."""


def hcl_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
    """Return the hierarchical context loss of fused student maps and teacher maps of the same shapes (B,C,H,W).

    A stage's loss is the weighted mean of mean squared differences: weight 1 at full size, 1/2, 1/4 and 1/8 after
    pooling to 4, 2 and 1 pixels a side, where the map is larger; the stages add up (section 3.4 of the paper).
    """
    pairs = zip(student_feats, teacher_feats, strict=True)
    return sum((_stage_loss(s, t.detach()) for s, t in pairs), start=student_feats[0].new_zeros(()))


def _stage_loss(student: Tensor, target: Tensor) -> Tensor:
    loss, total, weight = F.mse_loss(student, target), 1.0, 1.0
    for level in LEVELS:
        if level < min(student.shape[2:]):
            weight /= 2
            total += weight
            pooled = F.adaptive_avg_pool2d(student, level), F.adaptive_avg_pool2d(target, level)
            loss = loss + weight * F.mse_loss(pooled[0], pooled[1])
    return loss / total


class Fusion(nn.Module):
    """Attention-based fusion of a student stage with the residual of the deeper stages (figure 3b of the paper)."""

    def __init__(self, inputs: int, inner: int, target: torch.Size, deepest: bool) -> None:
        super().__init__()
        outputs, height, width = target
        self.size = (height, width)
        self.reduce = nn.Sequential(nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner))
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * inner, 2, 1), nn.Sigmoid())
        self.expand = nn.Sequential(nn.Conv2d(inner, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        for layers in (self.reduce, self.expand):
            assert isinstance(layers[0], nn.Conv2d)
            nn.init.kaiming_uniform_(layers[0].weight, a=1)

    def forward(self, feature: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return maps of the teacher's shape and the residual for the next shallower stage.

        The residual is brought to the student's size; both are mixed by one attention map each.
        """
        mixed = self.reduce(feature)
        if self.attention is not None:
            assert residual is not None, "only the deepest stage has no residual"
            residual = _resize(residual, (mixed.shape[2], mixed.shape[3]))
            own, passed = self.attention(torch.cat([mixed, residual], dim=1)).chunk(2, dim=1)
            mixed = own * mixed + passed * residual
        mixed = _resize(mixed, self.size)
        return self.expand(mixed), mixed


def _resize(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Take the nearest pixels of maps (B,C,H,W), unless they have the size."""
    return feature if feature.shape[2:] == torch.Size(size) else F.interpolate(feature, size=size, mode="nearest")


def review(fusions: nn.ModuleList, features: Sequence[Tensor]) -> list[Tensor]:
    """Return the fused maps of every stage, shallow to deep, from the student's, shallow to deep."""
    fused: list[Tensor] = []
    residual: Tensor | None = None
    for fusion, feature in zip(reversed(fusions), reversed(features), strict=True):
        output, residual = fusion(feature, residual)
        fused.insert(0, output)
    return fused


def as_maps(features: Sequence[Tensor]) -> list[Tensor]:
    """Return features as maps; pooled vectors (B,D) become maps of one pixel."""
    return [feature[:, :, None, None] if feature.ndim == 2 else feature for feature in features]


class ReviewKD(TapLoss):
    """Cross-entropy and the review of all stages and of the pooled vector, which is warmed up."""

    term = "reviewkd"

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Move maps to before their activation where that is asked for and tapped, and add the pooled vectors."""
        maps = super().taps(context)
        for role, wanted in ((teacher(0), self.settings.teacher_pre), (STUDENT, self.settings.student_pre)):
            if wanted:
                maps[role] = pre_where_tapped(context, role, maps[role])
        return {role: (*taps, EMBEDDING) for role, taps in maps.items()}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one fusion a stage and one for the pooled vector."""
        student, target = ([_as_map(shape) for shape in context.features(role)] for role in (STUDENT, teacher(0)))
        inner = min(MOST_CHANNELS, student[-1][0])
        fusions = [
            Fusion(own[0], inner, other, deepest=own is student[-1]) for own, other in zip(student, target, strict=True)
        ]
        return nn.ModuleDict({"fusions": nn.ModuleList(fusions)})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the review loss."""
        fusions = extra["fusions"]
        assert isinstance(fusions, nn.ModuleList)
        return hcl_loss(review(fusions, as_maps(student)), as_maps(target))

    def weight(self, term: str, progress: Progress) -> float:
        """Raise the weight of the review epoch by epoch, the first one counting as `warmup_start`."""
        full = super().weight(term, progress)
        epochs = self.settings.warmup_epochs
        if term != "reviewkd" or epochs == 0:
            return full
        return full * min(1.0, (math.floor(progress.epoch) + self.settings.warmup_start) / epochs)


def _as_map(shape: torch.Size) -> torch.Size:
    """Return the shape (C,H,W) of a map; that of a vector (D,) is (D,1,1)."""
    return shape if len(shape) == 3 else torch.Size((shape.numel(), 1, 1))


def pre_where_tapped(context: Context, role: str, taps: Sequence[str]) -> tuple[str, ...]:
    """Return the taps before their activation, or as they are, with a line in the log, where the net has none there."""
    found = tuple(f"{tap}.pre" if f"{tap}.pre" in context.taps[role] else tap for tap in taps)
    if not any(tap.endswith(".pre") for tap in found):
        log.info("the %s has no taps before its activations: reviewkd takes %s as they are", role, ", ".join(taps))
    return found

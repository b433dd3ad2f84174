"""CKD together with a white-box loss, which compares differences of groups of features (Wilf et al. 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.methods._connectors import connected, tap_pairs
from kd.methods._features import paired_taps, require_maps
from kd.methods.cc import neighbour_loss
from kd.methods.ckd import CKD, difference
from kd.methods.contract import STUDENT, Context, Progress, Step, teacher
from kd.methods.hint import hint_loss
from kd.methods.vid import TeacherGaussian, predicted_loss

TAPS = {"hint": ("stage2",), "cc": ("embedding",), "vid": ("stages",)}
WEIGHTS = {"hint": 100.0, "cc": 0.02, "vid": 1.0}
INIT_VARIANCE = 5.0  # of vid, as in its card


class CKDInter(CKD):
    """CKD's terms of logits, and FitNets', CC's or VID's loss of features, all of group differences."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the taps of the white-box loss, its usual ones unless others are given."""
        settings, usual = self.settings, TAPS[self.settings.inner]
        student = usual if settings.student_taps is None else settings.student_taps
        target = usual if settings.teacher_taps is None else settings.teacher_taps
        found = paired_taps(self.name, context, student, target)
        if settings.inner != "cc":
            require_maps(self.name, context, found)
        return found

    def build(self, context: Context) -> nn.ModuleDict:
        """Return regressors (hint), Gaussians (vid) or linear embeddings of both networks (cc), one a tap."""
        if self.settings.inner == "cc":
            sides = {"student": STUDENT, "teacher": teacher(0)}
            return nn.ModuleDict({side: self.embeddings(context.features(role)) for side, role in sides.items()})
        pairs = tap_pairs(self.name, context)
        if self.settings.inner == "vid":
            gaussians = [TeacherGaussian(pair.student[0], pair.target[0], INIT_VARIANCE) for pair in pairs]
            return nn.ModuleDict({"gaussians": nn.ModuleList(gaussians)})
        return nn.ModuleDict({"regressors": nn.ModuleList([pair.regressor() for pair in pairs])})

    def embeddings(self, shapes: Sequence[torch.Size]) -> nn.ModuleList:
        """Return one linear embedding for each feature of a network."""
        return nn.ModuleList([nn.Linear(shape.numel(), self.settings.embedding_size) for shape in shapes])

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return CKD's terms and the white-box loss."""
        terms = super().loss(step)
        student, target = (
            [difference(step.batch.grouped(feature), self.positives) for feature in output.features]
            for output in (step.student, step.teacher)
        )
        return {**terms, "inner": inner_loss(self.settings.inner, student, target, step.extra)}

    def weight(self, term: str, progress: Progress) -> float:
        """Scale the weight that the white-box loss has by itself."""
        if term != "inner":
            return super().weight(term, progress)
        return float(WEIGHTS[self.settings.inner] * self.settings.inner_scale)


def inner_loss(inner: str, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
    """Return the white-box loss of feature differences (B,...) of both networks, through the modules in `extra`."""
    if inner == "vid":
        return predicted_loss(student, target, extra)
    if inner == "hint":
        return hint_loss(connected(extra["regressors"], student), target)
    embedded = zip(
        connected(extra["student"], [feature.flatten(1) for feature in student]),
        connected(extra["teacher"], [feature.detach().flatten(1) for feature in target]),
        strict=True,
    )
    return torch.stack([neighbour_loss(own, other) for own, other in embedded]).sum()

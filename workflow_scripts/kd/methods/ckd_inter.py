"""CKD together with a white-box loss, which compares differences of groups of features (Wilf et al. 2023)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kd.data.needs import Needs
from kd.methods.cc import neighbour_loss
from kd.methods.ckd import CKD, difference
from kd.methods.connectors import hint_regressor
from kd.methods.contract import STUDENT, Batch, Context, Outputs, Progress, teacher
from kd.methods.features import map_shapes, require_taps
from kd.methods.hint import hint_loss
from kd.methods.vid import TeacherGaussian, predicted_loss

NAME = "ckd_inter"
TAPS = {"hint": ("stage2",), "cc": ("embedding",), "vid": ("stages",)}
WEIGHTS = {"hint": 100.0, "cc": 0.02, "vid": 1.0}
INIT_VARIANCE = 5.0  # of vid, as in its card


class CKDInter(CKD):
    """CKD's terms of logits, and FitNets', CC's or VID's loss of features, all of group differences."""

    def needs(self) -> Needs:
        """Ask for pairs of groups, the teacher's fixed logits, and the taps of the white-box loss."""
        usual = TAPS[self.settings.inner]
        student, target = self.settings.student_taps, self.settings.teacher_taps
        return replace(
            super().needs(),
            student_taps=usual if student is None else tuple(student),
            teacher_taps=usual if target is None else tuple(target),
            same_length=True,
            live_teacher=True,
        )

    def build(self, context: Context) -> nn.ModuleDict:
        """Return regressors (hint), Gaussians (vid) or linear embeddings of both networks (cc), one a tap."""
        if self.settings.inner == "cc":
            sides = {"student": (STUDENT, self.student_taps), "teacher": (teacher(0), self.teacher_taps)}
            return nn.ModuleDict({side: self.embeddings(context, *tapped) for side, tapped in sides.items()})
        student = map_shapes(NAME, context, STUDENT, self.student_taps)
        target = map_shapes(NAME, context, teacher(0), self.teacher_taps)
        if self.settings.inner == "vid":
            gaussians = [TeacherGaussian(s[0], t[0], INIT_VARIANCE) for s, t in zip(student, target, strict=True)]
            return nn.ModuleDict({"gaussians": nn.ModuleList(gaussians)})
        names = [f"method {NAME}, taps {s} and {t}" for s, t in zip(self.student_taps, self.teacher_taps, strict=True)]
        shapes = zip(student, target, names, strict=True)
        return nn.ModuleDict({"regressors": nn.ModuleList([hint_regressor(s, t, name) for s, t, name in shapes])})

    def embeddings(self, context: Context, role: str, taps: Sequence[str]) -> nn.ModuleList:
        """Return one linear embedding for each tap of a network."""
        require_taps(NAME, role, taps, context.taps[role])
        widths = [context.shapes[role][tap].numel() for tap in taps]
        return nn.ModuleList([nn.Linear(width, self.settings.embedding_size) for width in widths])

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return CKD's terms and the white-box loss."""
        terms = super().loss(update, batch, outputs, extra, progress)
        student, target = (
            [difference(batch.grouped(feature), self.positives) for feature in outputs[role].features(taps)]
            for role, taps in ((STUDENT, self.student_taps), (teacher(0), self.teacher_taps))
        )
        return {**terms, "inner": inner_loss(self.settings.inner, student, target, extra)}

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
        return hint_loss(_through(extra["regressors"], student), target)
    embedded = zip(
        _through(extra["student"], [feature.flatten(1) for feature in student]),
        _through(extra["teacher"], [feature.detach().flatten(1) for feature in target]),
        strict=True,
    )
    return torch.stack([neighbour_loss(own, other) for own, other in embedded]).sum()


def _through(modules: nn.Module, features: Sequence[Tensor]) -> list[Tensor]:
    assert isinstance(modules, nn.ModuleList)
    return [module(feature) for module, feature in zip(modules, features, strict=True)]

"""ASIB: teachers fused through an information bottleneck into synergy logits, stage by stage.

A stage has two halves. In the teacher update the frozen student's embedding queries the teachers; teachers and fusion
learn to classify and to stay close to what the student can express. In the student update teachers and fusion are
frozen and the student learns from the synergy logits.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from kd.asib import losses
from kd.asib.fusion import IBMBM, Bottleneck, SynergyHead, TeacherAdapters
from kd.asib.gate import check_synergy
from kd.asib.recipes import half_recipe
from kd.methods.contract import (
    EXTRA,
    STUDENT,
    Batch,
    Context,
    Method,
    Output,
    Outputs,
    Progress,
    Stage,
    Update,
    teacher,
)
from kd.spec.chain import HALVES, STUDENT_UPDATE, TEACHER_UPDATE, resolve_for_plan, stages
from kd.spec.errors import UserError
from kd.spec.needs import Needs

EMBEDDING = "embedding"
SYNERGY = "synergy"

Entry = TypeVar("Entry")


class ASIB(Method):
    """Adaptive synergy information-bottleneck distillation from any number of teachers.

    `loss` and `weight` take settings resolved to one half-stage (kd.spec.chain.stage_settings).
    """

    epochs: int | None = None
    """The recipe's epochs; without them `plan` leaves a student_epochs of null to the recipe."""

    def needs(self) -> Needs:
        """Ask for the embeddings of student and teachers."""
        return Needs(student_taps=(EMBEDDING,), teacher_taps=(EMBEDDING,))

    def plan(self) -> list[Stage]:
        """Return every half-stage in order: teacher update 1, student update 1, teacher update 2, ..."""
        given = self.settings.model_dump()
        return [self._at(stage, half).half_stage(half) for stage in range(1, stages(given) + 1) for half in HALVES]

    def half_stage(self, half: str) -> Stage:
        """Return one half-stage, from settings that are resolved to it."""
        assert half in HALVES, f"half-stage {half}"
        recipe = half_recipe(self.settings.model_dump(), half)
        if half == STUDENT_UPDATE:
            return Stage(half, (Update(half, (STUDENT,)),), recipe)
        roles = tuple(teacher(k) for k in range(self.teachers))
        update = Update(half, (*roles, EXTRA), {EXTRA: self.settings.fusion_lr_scale})
        freeze = dict.fromkeys(roles, self.settings.teacher_freeze)
        return Stage(half, (update,), recipe, selects=False, freeze=freeze)

    def build(self, context: Context) -> nn.ModuleDict:
        """Return teacher adapters, fusion and synergy head, their widths taken from the embeddings."""
        settings = self.settings
        student_dim = context.shapes[STUDENT][EMBEDDING].numel()
        if settings.feature_weight > 0 and not settings.feature_projection and student_dim != settings.embed_dim:
            raise UserError(
                f"asib: feature_projection false compares the student's embedding of width {student_dim} with the "
                f"bottleneck of width {settings.embed_dim}: set embed_dim to {student_dim} or feature_projection true"
            )
        widths = [shapes[EMBEDDING].numel() for shapes in _of_teachers(context.shapes)]
        adapters = TeacherAdapters(widths, settings.adapter_dim)
        # A student half leaves the dropouts at their defaults: the fusion is in eval mode there.
        mbm = IBMBM(
            student_dim,
            adapters.width,
            settings.embed_dim,
            settings.n_heads,
            settings.logvar_clip,
            settings.attention_dropout,
        )
        head = SynergyHead(settings.embed_dim, context.num_classes, settings.head_dropout)
        return nn.ModuleDict({"adapters": adapters, "mbm": mbm, "head": head})

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the terms of one of the two updates."""
        terms_of = self._teacher_terms if update == TEACHER_UPDATE else self._student_terms
        return terms_of(batch, outputs, extra)

    def weight(self, term: str, progress: Progress) -> float:
        """Return a term's weight; the bottleneck's warms up and is above 0 from the first step."""
        full = super().weight(term, progress)
        return full * losses.warm_up(progress.epoch, self.settings.ib_warmup_epochs) if term == "ib" else full

    def heads(self, outputs: Outputs, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return the synergy's logits from the bottleneck's mean: evaluation never samples."""
        return {SYNERGY: extra["head"](_fuse(extra, outputs, sample=False).z)}

    def accept(self, stage: Stage, validation: Mapping[str, float], labels: Tensor, num_classes: int) -> None:
        """Refuse to go on from a teacher update whose synergy does not beat chance on the validation images."""
        if stage.name == TEACHER_UPDATE:
            majority = 100 * int(torch.bincount(labels).max()) / len(labels)
            teachers = [validation[teacher(k)] for k in range(self.teachers)]
            check_synergy(validation[SYNERGY], num_classes, len(labels), teachers, majority)

    def _teacher_terms(self, batch: Batch, outputs: Outputs, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return the terms that train teachers and fusion.

        cccp is the proximal term of the concave-convex procedure: KL from the student's distribution at the start of
        the stage. The student is frozen during this half, so its current distribution is that reference.
        """
        settings = self.settings
        student = _detached(outputs[STUDENT])
        code = _fuse(extra, {**outputs, STUDENT: student}, sample=True)
        synergy = extra["head"](code.z)
        certainty = losses.certainty(code.logvar)
        kd = losses.soft_kl(synergy, student.logits, settings.temperature)
        terms = {
            "synergy_ce": (certainty * batch.cross_entropies(synergy)).mean(),
            "teacher_kd": (certainty * kd).mean(),
            "cccp": losses.soft_kl(synergy, student.logits, settings.cccp_temperature).mean(),
            "ib": losses.ib_kl(code.mu, code.logvar, settings.ib_reduction),
        }
        return terms | self._feature_term(extra, student, code.mu, code.logvar)

    def _student_terms(self, batch: Batch, outputs: Outputs, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return the terms that train the student; the synergy is a constant target unless synergy_gradient is set."""
        settings = self.settings
        student = outputs[STUDENT]
        with torch.set_grad_enabled(settings.synergy_gradient and torch.is_grad_enabled()):
            code = _fuse(extra, outputs, sample=False)
            synergy = extra["head"](code.z)
        teacher_logits = [output.logits.detach() for output in _of_teachers(outputs)]
        terms = {
            "ce": batch.cross_entropy(student.logits),
            "kd": losses.soft_kl(student.logits, synergy, settings.temperature).mean(),
            "kd_ens": losses.averaged_soft_kl(student.logits, teacher_logits, settings.temperature).mean(),
        }
        return terms | self._feature_term(extra, student, code.mu.detach(), code.logvar)

    def _feature_term(self, extra: nn.ModuleDict, student: Output, mu: Tensor, logvar: Tensor) -> dict[str, Tensor]:
        """Return the distance of the student's embedding to the bottleneck, certainty-weighted, if it has a weight."""
        if self.settings.feature_weight == 0:
            return {}
        embedding = student.taps[EMBEDDING]
        if self.settings.feature_projection:
            mbm = extra["mbm"]
            assert isinstance(mbm, IBMBM), "the projection is part of the fusion"
            embedding = mbm.project_query(embedding)
        return {"feature": (losses.certainty(logvar) * losses.feature_distance(embedding, mu)).mean()}

    def _at(self, stage: int, half: str) -> "ASIB":
        """Return this method with settings resolved to one half-stage."""
        resolved = resolve_for_plan(self.settings.model_dump(), stage, half, self.epochs)
        method = ASIB(self.settings.model_copy(update=resolved))
        method.teachers = self.teachers
        return method


def _fuse(extra: nn.ModuleDict, outputs: Outputs, sample: bool) -> Bottleneck:
    """Fuse the teachers' embeddings with the student's as the query."""
    tokens = extra["adapters"]([output.taps[EMBEDDING] for output in _of_teachers(outputs)])
    return extra["mbm"](outputs[STUDENT].taps[EMBEDDING], tokens, sample=sample)


def _of_teachers(by_role: Mapping[str, Entry]) -> list[Entry]:
    """Return the entries of teacher 0, teacher 1, ... in order."""
    return [by_role[teacher(k)] for k in range(len(by_role)) if teacher(k) in by_role]


def _detached(output: Output) -> Output:
    return Output(output.logits.detach(), {name: tap.detach() for name, tap in output.taps.items()})

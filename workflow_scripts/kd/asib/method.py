"""ASIB: teachers fused through an information bottleneck into synergy logits, stage by stage.

A stage has two halves. In the teacher update the frozen student's embedding queries the teachers; teachers and fusion
learn to classify and to stay close to what the student can express. In the student update teachers and fusion are
frozen and the student learns from the synergy logits.
"""

import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from kd.asib import losses, schedules
from kd.asib.fusions.build import build_fusion
from kd.asib.gate import check_synergy, compare_with_average
from kd.asib.modules import DistillationAdapters, Parts, StudentProjection, SynergyHead
from kd.asib.recipes import half_freezing, half_recipe
from kd.asib.student_terms import student_terms
from kd.asib.teacher_terms import teacher_terms
from kd.asib.view import AVERAGE, SYNERGY, View, check_widths, fusions, head_of
from kd.methods._features import EMBEDDING
from kd.methods.contract import (
    GIVEN,
    STUDENT,
    Context,
    Method,
    Outputs,
    Progress,
    Stage,
    Step,
    Update,
    of_teachers,
    part,
    teacher,
)
from kd.models.adapters import add_adapter
from kd.models.base import TappedModel
from kd.study.chain import HALVES, STUDENT_UPDATE, TEACHER_UPDATE, resolve_for_plan, stages
from kd.tools.errors import UserError

log = logging.getLogger(__name__)

ADAPTERS, FUSION, HEAD, PROJECTION, PARTS = "adapters", "mbm", "head", "proj", "parts"
TAU = "tau"
"""Name of the schedule of the temperature."""
WEIGHTS = {
    "synergy_ce": "synergy_ce_alpha",
    "synergy_kd": "synergy_kd_alpha",
    "feature": "feat_kd_alpha",
    "teacher_reg": "reg_lambda",
    "fusion_reg": "mbm_reg_lambda",
    "kd_ens": "kd_ens_alpha",
    "rkd": "rkd_loss_weight",
}
"""Settings behind the weights that are constant within an update."""


class ASIB(Method):
    """Adaptive synergy information-bottleneck distillation from any number of teachers.

    `schedule`, `loss` and `weight` take settings resolved to one half-stage (kd.study.chain.stage_settings).
    """

    teaching = SYNERGY

    epochs: int | None = None
    """The recipe's epochs; without them `plan` leaves a student_epochs of null to the recipe."""

    networks: Mapping[str, TappedModel] = MappingProxyType({})
    """The networks by role, whose parameters the regularisers read."""

    last_maps: tuple[str, ...] = ()
    """The tap of every teacher's last map, where the fusion reads it."""

    def plan(self) -> list[Stage]:
        """Return every half-stage in order: teacher update 1, student update 1, teacher update 2, ..."""
        given = self.settings.model_dump()
        return [self._at(stage, half).half_stage(half) for stage in range(1, stages(given) + 1) for half in HALVES]

    def half_stage(self, half: str) -> Stage:
        """Return one half-stage, from settings that are resolved to it."""
        assert half in HALVES, f"half-stage {half}"
        settings = self.settings
        span = None if settings.epochs_span is None else (settings.epochs_span[0], settings.epochs_span[1])
        recipe = half_recipe(settings.model_dump(), half)
        freeze = half_freezing(settings.model_dump(), half, self.teachers)
        if half == STUDENT_UPDATE:
            projected = (part(PROJECTION),) if settings.use_student_proj else ()
            return Stage(half, (Update(half, (STUDENT, *projected)),), recipe, freeze=freeze, span=span)
        adapt = settings.adapt_teachers and not settings.train_distill_adapter_only
        roles = tuple(teacher(k) for k in range(self.teachers)) if adapt else ()
        which = fusions(settings)
        adapters = tuple(part(ADAPTERS + one) for one in which if settings.use_distillation_adapter)
        fused = tuple(part(name + one) for one in which for name in (FUSION, HEAD))
        update = Update(half, (*roles, *adapters, *fused), dict.fromkeys(fused, settings.mbm_lr_factor))
        keeps = SYNERGY if settings.teacher_keeps == "best" else ""
        return Stage(half, (update,), recipe, selects=False, keeps=keeps, freeze=freeze, span=span)

    def deployed(self, student: TappedModel, context: Context) -> TappedModel:
        """Return the student with its residual adapter, if it is to have one."""
        settings = self.settings
        if not settings.use_student_adapter:
            return student
        return add_adapter(student, context.shapes[STUDENT], settings.student_adapter_dim)

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the embeddings, and the maps that fusion and feature term compare."""
        settings = self.settings
        if self._fuses_maps:
            self.last_maps = tuple(stages[-1] for stages in of_teachers(context.stages))
        compared = [f"stage{k}" for k in settings.feat_layers] if settings.feat_loss_weight else []
        fused = ["last"] if self._fuses_maps else []
        read = {STUDENT: [EMBEDDING, *compared]}
        read |= {teacher(k): [EMBEDDING, *compared, *fused] for k in range(self.teachers)}
        return {role: context.resolve(role, names) for role, names in read.items()}

    def build(self, context: Context) -> nn.ModuleDict:
        """Return adapters, fusion, synergy head and projection, their widths taken from the embeddings."""
        settings = self.settings
        self.networks = context.models
        query_dim = context.shapes[STUDENT][EMBEDDING].numel()
        first, *others = fusions(settings)
        modules, width = self._fusion(context, query_dim, first)
        if settings.use_student_proj:
            shape = (settings.proj_hidden_dim, settings.proj_use_bn, settings.proj_normalize)
            modules[PROJECTION] = StudentProjection(query_dim, width, *shape)
        for other in others:
            modules |= self._fusion(context, query_dim, other)[0]
        if others or settings.fusion_share < 1:
            modules[PARTS] = self._parts(context.labels)
        check_widths(settings, query_dim, width)
        return nn.ModuleDict(modules)

    def _fusion(self, context: Context, query_dim: int, which: str) -> tuple[dict[str, nn.Module], int]:
        """Return one fusion with what belongs to it, by name, and the width of its code."""
        settings = self.settings
        modules: dict[str, nn.Module] = {}
        widths = [shapes[EMBEDDING].numel() for shapes in of_teachers(context.shapes)]
        if settings.use_distillation_adapter:
            adapters = DistillationAdapters(widths, settings.distill_hidden_dim, settings.distill_out_dim)
            modules[ADAPTERS + which], widths = adapters, adapters.widths
        # A student half leaves the dropouts at their defaults: the fusion is in eval mode there.
        pairs = zip(of_teachers(context.shapes), self.last_maps, strict=bool(self.last_maps))
        channels = [shapes[last][0] for shapes, last in pairs]
        fusion = build_fusion(settings, query_dim, widths, channels)
        modules[FUSION + which] = fusion
        modules[HEAD + which] = SynergyHead(
            fusion.width,
            context.num_classes,
            settings.mbm_dropout if settings.synergy_head_dropout is None else settings.synergy_head_dropout,
            settings.synergy_temp_learnable,
            residual=settings.synergy_base != "none",
            scaled=settings.synergy_scale == "learned",
        )
        return modules, fusion.width

    def _parts(self, labels: Tensor) -> Parts:
        share = 0.5 if self.settings.cross_fit else self.settings.fusion_share
        parts = Parts(labels, share)
        if not parts.first.any():
            key = "cross_fit" if self.settings.cross_fit else f"fusion_share {share:g}"
            raise UserError(
                f"asib: {key} leaves no image of {len(labels)} to fit a fusion on: take more images or all of them"
            )
        return parts

    def schedule(self, progress: Progress) -> dict[str, float]:
        """Return the temperature of the moment."""
        return {TAU: schedules.temperature(self.settings, schedules.clock(self.settings, progress))}

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the terms of one of the two updates."""
        view = self._view(step.outputs, step.extra, step.schedule[TAU], step.batch.dominant_positions)
        if step.update == TEACHER_UPDATE:
            return teacher_terms(view, step.batch, self.networks)
        return student_terms(view, step.batch, self._compared_maps(step.outputs))

    def weight(self, term: str, progress: Progress) -> float:
        """Return a term's weight, as the schedules have it; hybrid_beta blends the student's terms with its own."""
        settings = self.settings
        at = schedules.clock(settings, progress)
        if term == "hybrid":
            return float(settings.hybrid_beta)
        kept = 1.0 - settings.hybrid_beta
        if term in WEIGHTS:
            value = getattr(settings, WEIGHTS[term])
        elif term == "ib":
            value = schedules.ib_weight(settings, at)
        elif term in {"ce", "kd"}:
            ce, kd = settings.ce_alpha, schedules.kd_weight(settings, at)
            value = (ce if term == "ce" else kd) / ((ce + kd or 1.0) if settings.renorm_ce_kd else 1.0)
        elif term in {"teacher_kd", "cccp"}:
            value = schedules.student_pull(settings, term, progress)
        elif term in {"latent_mse", "latent_angle"}:
            value = getattr(settings, f"{term}_weight") * schedules.latent_weight(settings, at)
        else:
            assert term == "maps", term
            value = schedules.piece(settings.feat_loss_weight, progress.share)
        return float(kept * value)

    def heads(self, outputs: Outputs, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return the synergy's logits from the bottleneck's mean, for evaluation never samples, and the average's."""
        view = self._view(outputs, extra, self.settings.tau_start)
        return {SYNERGY: view.target()[1], AVERAGE: view.average}

    def taught(self, outputs: Outputs, extra: nn.ModuleDict, positions: Tensor) -> Tensor:
        """Return the logits (B,C) that the student learns from on training images at these positions (B,)."""
        return self._view(outputs, extra, self.settings.tau_start, positions).target()[1]

    def calibrate(self, stage: Stage, seen: Iterable[tuple[Outputs, Tensor]], extra: nn.ModuleDict) -> None:
        """Learn on the validation images what the synergy's logits are divided by, after a teacher update."""
        if stage.name != TEACHER_UPDATE or self.settings.synergy_scale != "learned":
            return
        found = [
            (labels, [self._view(outputs, extra).own_logits(which) for which in fusions(self.settings)])
            for outputs, labels in seen
        ]
        labels = torch.cat([own for own, _ in found])
        for k, which in enumerate(fusions(self.settings)):
            logits = torch.cat([logits[k] for _, logits in found])
            head_of(extra, which).rescale(losses.fitted_scale(logits, labels))

    def restart(self, stage: Stage, extra: nn.ModuleDict) -> bool:
        """Let the synergy be its base again, where it has one: another student asks its fusion for something else."""
        if stage.name != TEACHER_UPDATE or self.settings.synergy_base == "none":
            return False
        added = [head_of(extra, which).restart() for which in fusions(self.settings)]
        return any(added)

    def observe(self, outputs: Outputs, labels: Tensor, extra: nn.ModuleDict) -> dict[str, Tensor]:
        """Return the bottleneck's KL of every image, and in percent where the teachers disagree.

        Their mean synergy_minus_average is by how many points the synergy is above the average of the same logits.
        """
        view = self._view(outputs, extra, self.settings.tau_start)
        code, synergy = view.target()
        logits = [output.logits for output in outputs.teachers]
        apart = losses.disagreement(logits, labels)
        found = {f"disagreement_{name}": 100.0 * where for name, where in apart.items()}
        right, average_right = ((made.argmax(dim=1) == labels).double() for made in (synergy, view.average))
        found["synergy_minus_average"] = 100.0 * (right - average_right)
        if code.logvar is not None:
            found["ib_kl"] = losses.ib_kls(code.mu, code.logvar, self.settings.ib_reduction)
        if self.settings.synergy_scale == "learned":
            scales = [head_of(extra, which).scale for which in fusions(self.settings)]
            found["synergy_scale"] = torch.stack([s for s in scales if s is not None]).mean().expand(len(labels))
        return found

    def accept(self, stage: Stage, validation: Mapping[str, float], labels: Tensor, num_classes: int) -> None:
        """Compare a teacher update's synergy with chance and with its teachers' average (kd.asib.gate)."""
        if stage.name == TEACHER_UPDATE:
            majority = 100 * int(torch.bincount(labels).max()) / len(labels)
            roles = [teacher(k) for k in range(self.teachers)]
            reached = [validation[role] for role in roles if role in validation]
            check_synergy(validation[SYNERGY], num_classes, len(labels), reached, majority)
            gate, margin = self.settings.gate, self.settings.gate_margin
            average = validation[AVERAGE]
            # of teachers that stay as they are both are the same, but for rounding where they are read in another form
            adapted = any(role in stage.trained() for role in roles)
            given = validation.get(GIVEN + AVERAGE, average) if adapted else average
            good, said = compare_with_average(validation[SYNERGY], average, given, len(labels), margin)
            if good:
                log.info("%s", said)
            elif gate == "average":
                raise UserError(said)
            else:
                log.warning("%s", said)

    @property
    def _fuses_maps(self) -> bool:
        return self.settings.mbm_type == "MLP" and self.settings.mbm_use_4d

    def _view(
        self,
        outputs: Outputs,
        extra: nn.ModuleDict,
        temperature: Tensor | float = 1.0,
        positions: Tensor | None = None,
    ) -> View:
        pairs = zip(outputs.teachers, self.last_maps, strict=bool(self.last_maps))
        maps = [output.taps[last] for output, last in pairs]
        return View(self.settings, extra, outputs, maps, temperature, positions)

    def _compared_maps(self, outputs: Outputs) -> list[tuple[float, Tensor, list[Tensor]]]:
        """Return weight, student's map and teachers' maps of every compared stage."""
        settings = self.settings
        if not settings.feat_loss_weight:
            return []
        listed = zip(settings.feat_layers, settings.feat_weights, strict=True)
        return [
            (
                weight,
                outputs.student.taps[f"stage{k}"],
                [output.taps[f"stage{k}"].detach() for output in outputs.teachers],
            )
            for k, weight in listed
        ]

    def _at(self, stage: int, half: str) -> "ASIB":
        """Return this method with settings resolved to one half-stage."""
        resolved = resolve_for_plan(self.settings.model_dump(), stage, half, self.epochs)
        return ASIB(self.settings.model_copy(update=resolved), self.teachers)

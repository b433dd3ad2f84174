"""What each half of each ASIB stage depends on, known without importing torch.

A chain has `num_stages` stages of two halves: the teacher update, then the student update. Settings that may differ by
stage (per_stage in the card) are one value for all stages or a list with one value a stage.
"""

from collections.abc import Mapping
from typing import Any

from kd.schema.cards import card
from kd.tools.errors import UserError, unknown

TEACHER_UPDATE, STUDENT_UPDATE = "teacher_update", "student_update"
HALVES = (TEACHER_UPDATE, STUDENT_UPDATE)

TEACHER_ONLY = frozenset(
    {
        "teacher_adapt_epochs",
        "teacher_optimizer",
        "teacher_lr",
        "teacher_schedule",
        "teacher_weight_decay",
        "mbm_lr_factor",
        "train_distill_adapter_only",
        "teacher_mixing",
        "teacher_freeze_level",
        "teacher_freeze_levels",
        "teacher_freeze_bn",
        "teacher_freeze_ln",
        "synergy_ce_alpha",
        "teacher_adapt_alpha_kd",
        "synergy_only_epochs",
        "use_cccp",
        "cccp_alpha",
        "tau",
        "cccp_ramp_epochs",
        "reg_lambda",
        "mbm_reg_lambda",
        "mbm_dropout",
        "gate_dropout",
        "synergy_head_dropout",
    }
)
STUDENT_ONLY = frozenset(
    {
        "student_epochs",
        "student_lr",
        "student_weight_decay",
        "student_freeze_level",
        "student_freeze_schedule",
        "student_freeze_bn",
        "student_freeze_ln",
        "ce_alpha",
        "kd_alpha",
        "kd_alpha_final",
        "renorm_ce_kd",
        "disagree_mode",
        "disagree_lambda_high",
        "disagree_lambda_low",
        "kd_ens_alpha",
        "hybrid_beta",
        "synergy_gradient",
        "rkd_loss_weight",
        "rkd_gamma",
        "latent_alpha",
        "latent_mse_weight",
        "latent_angle_weight",
        "latent_warmup_frac",
        "cw_mse_eps",
        "feat_loss_weight",
        "feat_layers",
        "feat_weights",
    }
)
OF_THE_CHAIN = frozenset({"num_stages", "schedule_span", "epochs_span"})
"""Decide what the halves are told, and are not told to them."""

WITH_BOTTLENECK = frozenset({"IB", "VIB", "GATE"})


def stages(settings: Mapping[str, Any]) -> int:
    """Return the number of stages; settings that contradict each other or it are a UserError."""
    count = settings["num_stages"]
    if count < 1:
        raise UserError(f"asib: num_stages must be at least 1, found {count}")
    listed = [key for key, setting in card("asib").settings.items() if setting.per_stage]
    for key in [*listed, "student_freeze_schedule"]:
        value = settings[key]
        if isinstance(value, list) and len(value) != count:
            raise UserError(
                f"asib: {key} lists {len(value)} values for num_stages {count}, give one value or exactly {count}"
            )
    for contradiction in _contradictions(settings):
        raise UserError(f"asib: {contradiction}")
    return int(count)


def stage_settings(settings: Mapping[str, Any], stage: int, half: str, epochs: int | None = None) -> dict[str, Any]:
    """Return exactly the settings that one half of stage `stage` (from 1) depends on, as single values.

    `epochs` are the recipe's; a student update needs them where student_epochs is null, and then gets its share of them
    under student_epochs. What belongs to the chain itself is left out: more stages later change nothing in the earlier
    ones, unless schedules span the chain, whose length (epochs_span) is then every half's business.
    """
    at_stage = _at_stage(settings, stage, half)
    if half == STUDENT_UPDATE and at_stage["student_epochs"] is None:
        assert epochs is not None, "student_epochs null needs the recipe's epochs"
        at_stage["student_epochs"] = _shares(epochs, stages(settings))[stage - 1]
    if settings["schedule_span"] == "chain":
        of_half = _epochs(settings, half, epochs)
        at_stage["epochs_span"] = [float(sum(of_half[: stage - 1])), float(sum(of_half))]
    return at_stage


def resolve_for_plan(settings: Mapping[str, Any], stage: int, half: str, epochs: int | None = None) -> dict[str, Any]:
    """Return `stage_settings`, or leave student_epochs null where the recipe's epochs are not known."""
    known = epochs is not None or half == TEACHER_UPDATE or settings["student_epochs"] is not None
    return stage_settings(settings, stage, half, epochs) if known else _at_stage(settings, stage, half)


def _contradictions(settings: Mapping[str, Any]) -> list[str]:
    """Return what in the settings cannot be meant together, each as the rest of a sentence."""
    kind, width, heads = settings["mbm_type"], settings["mbm_out_dim"], settings["mbm_n_head"]
    schedule, layers, weights = (settings[key] for key in ("beta_schedule", "feat_layers", "feat_weights"))
    needs_projection = settings["feat_kd_key"] == "proj" or _ever(settings["latent_alpha"])
    checks = {
        "epochs_span is filled in by the workflow and cannot be given": settings["epochs_span"] is not None,
        f"mbm_out_dim must be a multiple of mbm_n_head, found {width} and {heads}": (
            kind == "IB" and width is not None and width % heads != 0
        ),
        f"mbm_type {kind} has no bottleneck: set use_ib false": settings["use_ib"] and kind not in WITH_BOTTLENECK,
        "beta_schedule takes [start, end, epochs] with epochs above 0": (
            schedule is not None and (len(schedule) != 3 or schedule[2] <= 0)
        ),
        "feat_kd_key proj and latent_alpha need use_student_proj true": (
            needs_projection and not settings["use_student_proj"]
        ),
        "feat_kd_key query needs a fusion that the student asks: mbm_type IB, or LA without mbm_learnable_q": (
            settings["feat_kd_key"] == "query" and (kind not in {"IB", "LA"} or settings["mbm_learnable_q"])
        ),
        "latent_alpha needs a bottleneck: use_ib true": _ever(settings["latent_alpha"]) and not settings["use_ib"],
        f"feat_weights must be one for each of feat_layers, found {weights} for {layers}": len(weights) != len(layers),
        "feat_loss_weight needs feat_layers": any(settings["feat_loss_weight"]) and not layers,
        "train_distill_adapter_only needs use_distillation_adapter true": (
            settings["train_distill_adapter_only"] and not settings["use_distillation_adapter"]
        ),
        "renorm_ce_kd needs ce_alpha or kd_alpha above 0": (
            settings["renorm_ce_kd"] and not (_ever(settings["ce_alpha"]) or _ever(settings["kd_alpha"]))
        ),
    }
    return [sentence for sentence, found in checks.items() if found]


def _ever(value: float | list[float]) -> bool:
    """Whether a setting is above 0 in some stage."""
    return max(value) > 0 if isinstance(value, list) else value > 0


def _at_stage(settings: Mapping[str, Any], stage: int, half: str) -> dict[str, Any]:
    count = stages(settings)
    if not 1 <= stage <= count:
        raise UserError(f"asib: stage must be 1 to {count} (num_stages), found {stage}")
    if half not in HALVES:
        raise unknown("half of an asib stage", half, HALVES)
    left_out = (STUDENT_ONLY if half == TEACHER_UPDATE else TEACHER_ONLY) | OF_THE_CHAIN
    per_stage = {key for key, setting in card("asib").settings.items() if setting.per_stage}
    resolved = {
        key: value[stage - 1] if key in per_stage and isinstance(value, list) else value
        for key, value in settings.items()
        if key not in left_out
    }
    if half == STUDENT_UPDATE:
        schedule = resolved.pop("student_freeze_schedule")
        level = settings["student_freeze_level"] - (stage - 1) if schedule is None else schedule[stage - 1]
        resolved["student_freeze_level"] = max(-1, level)
    return resolved


def _epochs(settings: Mapping[str, Any], half: str, epochs: int | None) -> list[int]:
    """Return the epochs of one kind of update in every stage."""
    count = stages(settings)
    given = settings["teacher_adapt_epochs" if half == TEACHER_UPDATE else "student_epochs"]
    if isinstance(given, list):
        return given
    if given is not None:
        return [given] * count
    assert epochs is not None, "student_epochs null needs the recipe's epochs"
    return _shares(epochs, count)


def _shares(epochs: int, count: int) -> list[int]:
    """Divide epochs over stages; earlier stages get what is left over."""
    if epochs < count:
        raise UserError(
            f"asib: student_epochs null divides the recipe's epochs over the stages, but there are {epochs} epochs "
            f"for num_stages {count}: give more epochs, fewer stages or student_epochs"
        )
    return [epochs // count + (stage < epochs % count) for stage in range(count)]

"""What each half of each ASIB stage depends on, known without importing torch.

A chain has `num_stages` stages of two halves: the teacher update, then the student update. Settings that may differ by
stage (per_stage in the card) are one value for all stages or a list with one value a stage.
"""

from collections.abc import Mapping
from typing import Any

from kd.spec.cards import card
from kd.spec.errors import UserError, unknown

TEACHER_UPDATE, STUDENT_UPDATE = "teacher_update", "student_update"
HALVES = (TEACHER_UPDATE, STUDENT_UPDATE)

TEACHER_ONLY = frozenset(
    {
        "teacher_epochs",
        "teacher_optimizer",
        "teacher_lr",
        "teacher_schedule",
        "teacher_weight_decay",
        "fusion_lr_scale",
        "teacher_freeze",
        "synergy_ce_weight",
        "teacher_kd_weight",
        "cccp_weight",
        "cccp_temperature",
        "ib_weight",
        "ib_reduction",
        "ib_warmup_epochs",
        "attention_dropout",
        "head_dropout",
    }
)
STUDENT_ONLY = frozenset(
    {"student_epochs", "student_lr", "ce_weight", "kd_weight", "kd_ens_weight", "synergy_gradient"}
)


def stages(settings: Mapping[str, Any]) -> int:
    """Return the number of stages; settings that contradict each other or it are a UserError."""
    count = settings["num_stages"]
    if count < 1:
        raise UserError(f"asib: num_stages must be at least 1, found {count}")
    for key, setting in card("asib").settings.items():
        value = settings[key]
        if setting.per_stage and isinstance(value, list) and len(value) != count:
            raise UserError(
                f"asib: {key} lists {len(value)} values for num_stages {count}, give one value or exactly {count}"
            )
    if settings["embed_dim"] % settings["n_heads"]:
        raise UserError(
            f"asib: embed_dim must be a multiple of n_heads, found {settings['embed_dim']} and {settings['n_heads']}"
        )
    return int(count)


def stage_settings(settings: Mapping[str, Any], stage: int, half: str, epochs: int | None = None) -> dict[str, Any]:
    """Return exactly the settings that one half of stage `stage` (from 1) depends on, as single values.

    `epochs` are the recipe's; a student update needs them where student_epochs is null, and then gets its share of them
    under student_epochs. num_stages itself is left out: more stages later change nothing in the earlier ones.
    """
    at_stage = _at_stage(settings, stage, half)
    if half == STUDENT_UPDATE and at_stage["student_epochs"] is None:
        assert epochs is not None, "student_epochs null needs the recipe's epochs"
        at_stage["student_epochs"] = _shares(epochs, stages(settings))[stage - 1]
    return at_stage


def resolve_for_plan(settings: Mapping[str, Any], stage: int, half: str, epochs: int | None = None) -> dict[str, Any]:
    """Return `stage_settings`, or leave student_epochs null where the recipe's epochs are not known."""
    return stage_settings(settings, stage, half, epochs) if epochs is not None else _at_stage(settings, stage, half)


def _at_stage(settings: Mapping[str, Any], stage: int, half: str) -> dict[str, Any]:
    count = stages(settings)
    if not 1 <= stage <= count:
        raise UserError(f"asib: stage must be 1 to {count} (num_stages), found {stage}")
    if half not in HALVES:
        raise unknown("half of an asib stage", half, HALVES)
    left_out = (STUDENT_ONLY if half == TEACHER_UPDATE else TEACHER_ONLY) | {"num_stages"}
    per_stage = {key for key, setting in card("asib").settings.items() if setting.per_stage}
    return {
        key: value[stage - 1] if key in per_stage and isinstance(value, list) else value
        for key, value in settings.items()
        if key not in left_out
    }


def _shares(epochs: int, count: int) -> list[int]:
    """Divide epochs over stages; earlier stages get what is left over."""
    if epochs < count:
        raise UserError(
            f"asib: student_epochs null divides the recipe's epochs over the stages, but there are {epochs} epochs "
            f"for num_stages {count}: give more epochs, fewer stages or student_epochs"
        )
    return [epochs // count + (stage < epochs % count) for stage in range(count)]

"""What the two halves of a stage replace in the recipe, and what they freeze."""

from collections.abc import Mapping
from typing import Any

from kd.methods.contract import STUDENT, teacher
from kd.models.freezing import Freezing
from kd.study.chain import STUDENT_UPDATE
from kd.tools.errors import UserError


def half_recipe(settings: Mapping[str, Any], half: str) -> dict[str, Any]:
    """Return the recipe keys that one half replaces, from settings resolved by `stage_settings`.

    The teacher update has a short schedule of its own: the recipe's milestones, warm-up, lowest rate and moving average
    are made for the student.
    """
    if half == STUDENT_UPDATE:
        own = {key: settings[f"student_{key}"] for key in ("epochs", "lr", "weight_decay")}
        return {key: value for key, value in own.items() if value is not None}
    recipe = {
        "epochs": settings["teacher_adapt_epochs"],
        "optimizer": settings["teacher_optimizer"],
        "lr": settings["teacher_lr"],
        "weight_decay": settings["teacher_weight_decay"],
        "schedule": settings["teacher_schedule"],
        "milestones": [],
        "patience": None,
        "warmup_epochs": 0.0,
        "min_lr": 0.0,
        "ema_decay": None,
        "ema_start_decay": None,
    }
    # an image that is mixed with one of the other part would let a fusion see what it is not to be fitted on
    mixes = settings["teacher_mixing"] and not settings["cross_fit"] and settings["fusion_share"] == 1
    return recipe if mixes else {**recipe, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}


def half_freezing(settings: Mapping[str, Any], half: str, teachers: int) -> dict[str, Freezing]:
    """Return by role what one half freezes of what it trains; nothing without use_partial_freeze."""
    if not settings["use_partial_freeze"]:
        return {}
    if half == STUDENT_UPDATE:
        norms = (settings["student_freeze_bn"], settings["student_freeze_ln"])
        return {STUDENT: Freezing(settings["student_freeze_level"], *norms)}
    levels = settings["teacher_freeze_levels"]
    if levels is not None and len(levels) != teachers:
        raise UserError(f"asib: teacher_freeze_levels lists {len(levels)} levels for {teachers} teachers")
    listed = levels or [settings["teacher_freeze_level"]] * teachers
    norms = (settings["teacher_freeze_bn"], settings["teacher_freeze_ln"])
    return {teacher(k): Freezing(level, *norms) for k, level in enumerate(listed)}

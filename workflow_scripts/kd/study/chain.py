"""What each half of each ASIB stage depends on, known without importing torch.

A chain has `num_stages` stages of two halves: the teacher update, then the student update. Settings that may differ by
stage (per_stage in the card) are one value for all stages or a list with one value a stage.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from kd.schema.cards import card
from kd.tools.errors import UserError, unknown

TEACHER_UPDATE, STUDENT_UPDATE = "teacher_update", "student_update"
HALVES = (TEACHER_UPDATE, STUDENT_UPDATE)

CHAIN = "asib"
"""The one card that runs as a chain."""
OTHERS = {TEACHER_UPDATE: ("student", "chain"), STUDENT_UPDATE: ("teacher", "chain")}
"""Whose settings, as the card has it, a half is not told: the other half's, and those that decide what it is told."""


def stages(settings: Mapping[str, Any]) -> int:
    """Return the number of stages; settings that contradict each other or it are a UserError."""
    count = settings["num_stages"]
    if count < 1:
        raise UserError(f"asib: num_stages must be at least 1, found {count}")
    listed = [key for key, setting in card(CHAIN).settings.items() if setting.per_stage]
    for key in [*listed, "student_freeze_schedule"]:
        value = settings[key]
        if isinstance(value, list) and len(value) != count:
            raise UserError(
                f"asib: {key} lists {len(value)} values for num_stages {count}, give one value or exactly {count}"
            )
    for contradiction in importlib.import_module(card(CHAIN).checks).contradictions(settings):
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
        at_stage["student_epochs"] = _epochs(settings, half, epochs)[stage - 1]
    if settings["schedule_span"] == "chain":
        of_half = _epochs(settings, half, epochs)
        at_stage["epochs_span"] = [float(sum(of_half[: stage - 1])), float(sum(of_half))]
    return at_stage


def resolve_for_plan(settings: Mapping[str, Any], stage: int, half: str, epochs: int | None = None) -> dict[str, Any]:
    """Return `stage_settings`, or leave student_epochs null where the recipe's epochs are not known."""
    known = epochs is not None or half == TEACHER_UPDATE or settings["student_epochs"] is not None
    return stage_settings(settings, stage, half, epochs) if known else _at_stage(settings, stage, half)


def _at_stage(settings: Mapping[str, Any], stage: int, half: str) -> dict[str, Any]:
    count = stages(settings)
    if not 1 <= stage <= count:
        raise UserError(f"asib: stage must be 1 to {count} (num_stages), found {stage}")
    if half not in HALVES:
        raise unknown("half of an asib stage", half, HALVES)
    described = card(CHAIN).settings
    left_out = {key for key, setting in described.items() if setting.half in OTHERS[half]}
    per_stage = {key for key, setting in described.items() if setting.per_stage}
    resolved = {
        key: value[stage - 1] if key in per_stage and isinstance(value, list) else value
        for key, value in settings.items()
        if key not in left_out
    }
    if half == TEACHER_UPDATE:
        resolved["teacher_adapt_epochs"] = _epochs(settings, half, None)[stage - 1]
    else:
        schedule = resolved.pop("student_freeze_schedule")
        level = settings["student_freeze_level"] - (stage - 1) if schedule is None else schedule[stage - 1]
        resolved["student_freeze_level"] = max(-1, level)
    return resolved


def _epochs(settings: Mapping[str, Any], half: str, epochs: int | None) -> list[int]:
    """Return the epochs of one kind of update in every stage."""
    count = stages(settings)
    if half == TEACHER_UPDATE and settings["teacher_epochs"] is not None:
        return _shares(settings["teacher_epochs"], count, "teacher_epochs divides its epochs", "teacher_adapt_epochs")
    given = settings["teacher_adapt_epochs" if half == TEACHER_UPDATE else "student_epochs"]
    if isinstance(given, list):
        return given
    if given is not None:
        return [given] * count
    assert epochs is not None, "student_epochs null needs the recipe's epochs"
    return _shares(epochs, count, "student_epochs null divides the recipe's epochs", "student_epochs")


def _shares(epochs: int, count: int, divided: str, instead: str) -> list[int]:
    """Divide epochs over stages; earlier stages get what is left over."""
    if epochs < count:
        raise UserError(
            f"asib: {divided} over the stages, but there are {epochs} epochs for num_stages {count}: give more epochs, "
            f"fewer stages or {instead}"
        )
    return [epochs // count + (stage < epochs % count) for stage in range(count)]

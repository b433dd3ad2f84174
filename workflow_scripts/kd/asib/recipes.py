"""What the two halves of a stage replace in the recipe."""

from collections.abc import Mapping
from typing import Any

from kd.spec.chain import STUDENT_UPDATE


def half_recipe(settings: Mapping[str, Any], half: str) -> dict[str, Any]:
    """Return the recipe keys that one half replaces, from settings resolved by `stage_settings`.

    The teacher update has a short schedule of its own: the recipe's milestones, warm-up, lowest rate and moving average
    are made for the student.
    """
    if half == STUDENT_UPDATE:
        own = {"epochs": settings["student_epochs"], "lr": settings["student_lr"]}
        return {key: value for key, value in own.items() if value is not None}
    optimizer = settings["teacher_optimizer"]
    return {
        "epochs": settings["teacher_epochs"],
        "optimizer": optimizer,
        "lr": settings["teacher_lr"],
        "weight_decay": settings["teacher_weight_decay"],
        "schedule": settings["teacher_schedule"],
        "milestones": [],
        "warmup_epochs": 0.0,
        "min_lr": 0.0,
        "ema_decay": None,
    }

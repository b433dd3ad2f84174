"""How the cost of an image grows with the size of the task: training images, classes, batch size, negatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.speed.compare import LOOPS, compare
from kd.speed.contrast import CONTRAST, PLAIN
from kd.speed.measure import Progress
from kd.speed.settings import Entry, Settings
from kd.speed.world import World


@dataclass(frozen=True)
class Axis:
    """One thing that grows, and the methods that it is grown for."""

    key: str
    values: Sequence[int]
    methods: Sequence[str] = (PLAIN, CONTRAST)


AXES = (
    Axis("train_images", (5_000, 20_000, 50_000, 100_000)),
    Axis("classes", (100, 250, 500, 1000)),
    Axis("batch_size", (16, 64, 256)),
    Axis("negatives", (1024, 4096, 16_384), (CONTRAST,)),
)


def scale(settings: Settings, folder: Path, progress: Progress, axes: Sequence[Axis] = AXES) -> dict[str, Any]:
    """Return a curve for every axis and method: x, speed, memory and seconds to build of both loops, ratio of speeds.

    Images are synthetic; all else is as the settings say. Small networks show best what grows beside them.
    """
    return {
        f"{method} by {axis.key}": {
            "axis": axis.key,
            "method": method,
            "points": _points(settings, axis, method, folder, progress),
        }
        for axis in axes
        for method in axis.methods
    }


def _points(settings: Settings, axis: Axis, method: str, folder: Path, progress: Progress) -> list[dict[str, Any]]:
    points = []
    for value in axis.values:
        entry, at = _point(settings, axis.key, method, value)
        progress(f"{method}, {axis.key} {value}")
        points.append({"x": value, **_shortened(compare(World(at, folder), entry, lambda text: None, by_part=False))})
    return points


def _point(settings: Settings, key: str, method: str, value: int) -> tuple[Entry, Settings]:
    """Return the method's entry and the settings of one point, as many steps of any batch size."""
    if key == "negatives":
        return {"method": method, "negatives": value}, settings.model_copy(update={"data": []})
    changes = {
        "data": [],
        key: value,
        "images": settings.steps * (value if key == "batch_size" else settings.batch_size),
    }
    return method, settings.model_copy(update=changes)


def _shortened(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "ratio": found["ratio"]["own"]["median"],
        **{
            loop: {
                "images_per_second": found[loop]["images_per_second"]["own"]["median"],
                "memory_mb": found[loop]["memory_mb"],
                "build_seconds": found[loop]["before_first_step"]["build"],
            }
            for loop in LOOPS
        },
    }

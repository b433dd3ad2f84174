"""How the cost of an image grows with the size of the task: training images, classes, batch size, negatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.benchmark.compare import LOOPS, Progress, compare
from kd.benchmark.settings import Settings
from kd.benchmark.world import World

STEPS = 4
REPEATS = 3
CONTRAST = "crd"
SMALL = {"teachers": ["resnet20"], "student": "resnet8"}
"""Nets so small that whatever grows beside them is seen."""


@dataclass(frozen=True)
class Axis:
    """One thing that grows, and the methods that it is grown for."""

    key: str
    values: Sequence[int]
    methods: Sequence[str]


AXES = (
    Axis("train_images", (5_000, 10_000, 25_000, 50_000, 100_000), ("kd", CONTRAST)),
    Axis("classes", (100, 200, 500, 1000), ("kd", CONTRAST)),
    Axis("batch_size", (16, 32, 64, 128, 256), ("kd", CONTRAST)),
    Axis("negatives", (1024, 4096, 16384, 32768), (CONTRAST,)),
)


def curves(settings: Settings, folder: Path, axes: Sequence[Axis], progress: Progress) -> list[dict[str, Any]]:
    """Return a curve for every axis and method: x, speed, memory and seconds to build of both loops, ratio of speeds.

    Images are synthetic and networks small, whatever the settings say; all else is as they say.
    """
    return [_curve(settings, folder, axis, method, progress) for axis in axes for method in axis.methods]


def _curve(settings: Settings, folder: Path, axis: Axis, method: str, progress: Progress) -> dict[str, Any]:
    points = []
    for value in axis.values:
        entry, at = _point(settings, axis.key, method, value)
        progress(f"scale: {method}, {axis.key} {value}")
        points.append({"x": value, **_shortened(compare(World(at, folder), entry, lambda text: None, by_part=False))})
    return {"axis": axis.key, "method": method, "points": points}


def _point(settings: Settings, key: str, method: str, value: int) -> tuple[str | dict[str, Any], Settings]:
    """Return the method's entry and the settings of one point."""
    changes: dict[str, Any] = {**SMALL, "data": [], "repeats": REPEATS}
    entry: str | dict[str, Any] = method
    if key == "negatives":
        entry = {"method": method, "negatives": value}
    else:
        changes[key] = value
    changes["images"] = STEPS * changes.get("batch_size", settings.batch_size)
    return entry, settings.model_copy(update=changes)


def _shortened(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "ratio": found["ratio"]["median"],
        **{
            loop: {
                "images_per_second": found[loop]["images_per_second"]["median"],
                "memory_mb": found[loop]["memory_mb"],
                "build_seconds": found[loop]["before_first_step"]["build"],
            }
            for loop in LOOPS
        },
    }

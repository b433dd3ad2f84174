"""Whether speed costs accuracy: the same short training by the reference loop and by the engine, several seeds each."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kd.analysis.statistics import paired_difference
from kd.engine.jobs.student import train_student
from kd.engine.precision import runs_bf16, training_device
from kd.speed.compare import build_reference
from kd.speed.measure import Progress
from kd.speed.settings import Entry, Settings, name_of
from kd.speed.world import World
from kd.tools.errors import UserError

VALIDATION = 0.5
"""Share of the images that accuracy is read on: as many as are trained on, or chance would outweigh the loops."""

CONFIDENCE = 0.95
"""Of the interval of a loop's difference to the reference, seed by seed."""


def parity(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return by method the accuracies after a short training, of every loop and seed, and what they differ by.

    The teachers are trained by the engine first unless weights are given; all runs share them and the split.
    """
    if not settings.data:
        raise UserError("accuracy needs real images: name digits, a folder or archives in --data")
    settings = settings.model_copy(update={"epochs": settings.accuracy_epochs, "validation": VALIDATION})
    world = World(settings, folder)
    if not settings.weights:
        world.weights = _trained(world, progress)
    return {name_of(entry): _accuracies(world, entry, progress) for entry in settings.methods}


def loops_here(device: torch.device, precision: str) -> dict[str, dict[str, Any]]:
    """Return the recipe keys of each way in which the engine can run here; bf16 emulated too where it is asked for."""
    found: dict[str, dict[str, Any]] = {"engine, fp32": {"precision": "fp32", "kernels": "torch"}}
    if device.type == "cpu":
        found["engine, fp32, Winograd"] = {"precision": "fp32", "kernels": "winograd"}
    if runs_bf16(device) or precision == "bf16":
        found["engine, bf16"] = {"precision": "bf16", "kernels": "torch"}
    return found


def _accuracies(world: World, entry: Entry, progress: Progress) -> dict[str, Any]:
    settings = world.settings
    recipes = loops_here(training_device(), settings.precision)
    found: dict[str, list[float]] = {loop: [] for loop in ("reference", *recipes)}
    for seed in range(settings.seeds):
        for loop, top1 in found.items():
            plain = loop == "reference"
            top1.append(_reference(world, entry, seed) if plain else _engine(world, entry, seed, recipes[loop]))
            progress(f"{name_of(entry)}, seed {seed}, {loop}: {top1[-1]:.2f} %")
    return {
        "epochs": settings.epochs,
        "top1": found,
        "summary": {loop: _summary(top1, found["reference"]) for loop, top1 in found.items()},
    }


def _summary(top1: Sequence[float], reference: Sequence[float]) -> dict[str, float | None]:
    paired = paired_difference(dict(enumerate(top1)), dict(enumerate(reference)), CONFIDENCE)
    return {
        "mean": statistics.mean(top1),
        "std": statistics.stdev(top1) if len(top1) > 1 else 0.0,
        "difference": paired.mean,
        "low": paired.low,
        "high": paired.high,
    }


def _trained(world: World, progress: Progress) -> list[Path]:
    """Train every teacher and return their weights."""
    paths = []
    for name in world.settings.teachers:
        job, files = world.teacher_job(name)
        result = train_student(job, files, lambda row: None)
        progress(f"teacher {name}: {result.rows[-1]['val_top1']:.2f} %")
        paths.append(files.folder / "checkpoints" / "last.safetensors")
    return paths


def _reference(world: World, entry: Entry, seed: int) -> float:
    reference = build_reference(world.workbench(entry, True, seed), world)
    for _ in range(world.settings.epochs):
        reference.train_epoch()
    reference.close()
    return reference.evaluate()


def _engine(world: World, entry: Entry, seed: int, recipe: Mapping[str, Any]) -> float:
    ((job, files),) = world.jobs([entry], False, seed)
    job = job.model_copy(update={"recipe": job.recipe.model_copy(update=dict(recipe))})
    result = train_student(job, files, lambda row: None)
    return float(result.rows[-1]["val_top1"])

"""Whether speed costs accuracy: the same short training by the reference loop and by the engine, several seeds each."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd.benchmark.compare import build_reference
from kd.benchmark.measure import Progress
from kd.benchmark.settings import Entry, Settings, name_of
from kd.benchmark.world import World
from kd.engine.jobs import train_student
from kd.engine.precision import choose_precision, training_device
from kd.spec.errors import UserError

VALIDATION = 0.5
"""Share of the images that accuracy is read on: as many as are trained on, or chance would outweigh the loops."""


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


def _accuracies(world: World, entry: Entry, progress: Progress) -> dict[str, Any]:
    settings = world.settings
    fast = choose_precision(settings.precision, training_device()).name
    loops = ["reference", *(f"engine {name}" for name in dict.fromkeys(("fp32", fast)))]
    found: dict[str, list[float]] = {loop: [] for loop in loops}
    for seed in range(settings.seeds):
        for loop in loops:
            found[loop].append(
                _reference(world, entry, seed) if loop == "reference" else _engine(world, entry, seed, loop)
            )
            progress(f"{name_of(entry)}, seed {seed}, {loop}: {found[loop][-1]:.2f} %")
    return {
        "epochs": settings.epochs,
        "top1": found,
        "summary": {loop: _summary(top1, found["reference"]) for loop, top1 in found.items()},
    }


def _summary(top1: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    return {
        "mean": statistics.mean(top1),
        "std": statistics.stdev(top1) if len(top1) > 1 else 0.0,
        "difference": statistics.mean(top1) - statistics.mean(reference),
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


def _engine(world: World, entry: Entry, seed: int, loop: str) -> float:
    ((job, files),) = world.jobs([entry], False, seed)
    precision = loop.removeprefix("engine ")
    job = job.model_copy(update={"recipe": job.recipe.model_copy(update={"precision": precision})})
    result = train_student(job, files, lambda row: None)
    return float(result.rows[-1]["val_top1"])

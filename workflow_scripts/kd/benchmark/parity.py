"""Whether speed costs accuracy: the same short training by the reference loop and by the engine, several seeds each."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd.benchmark.compare import Progress, stage_of
from kd.benchmark.reference import Reference
from kd.benchmark.settings import Settings
from kd.benchmark.world import World
from kd.engine.jobs import Files, train_student
from kd.engine.precision import choose_precision, make_deterministic, training_device

Entry = str | dict[str, Any]


def parity(settings: Settings, folder: Path, weights: Sequence[Path], seeds: int, progress: Progress) -> dict[str, Any]:
    """Return validation accuracies after `settings.epochs` epochs of every loop and seed, and what they differ by.

    The teachers are trained by the engine first unless weights are given; all runs share them and the split.
    """
    world = World(settings, folder, weights)
    if not weights:
        world = World(settings, folder, _trained(world, progress))
    entry = settings.methods[0]
    fast = choose_precision(settings.precision, training_device()).name
    found: dict[str, list[float]] = {
        "reference": [],
        **{f"engine {name}": [] for name in dict.fromkeys(("fp32", fast))},
    }
    for seed in range(seeds):
        for loop, top1 in found.items():
            top1.append(_reference(world, entry, seed) if loop == "reference" else _engine(world, entry, seed, loop))
            progress(f"accuracy: seed {seed}, {loop}: {top1[-1]:.2f} %")
    return {
        "method": settings.name_of(entry),
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
        folder = world.folder / "teachers" / name.replace(":", "_")
        result = train_student(world.teacher_job(name), Files(data=world.data, folder=folder), lambda row: None)
        progress(f"accuracy: teacher {name}: {result.rows[-1]['val_top1']:.2f} %")
        paths.append(folder / "checkpoints" / "last.safetensors")
    return paths


def _reference(world: World, entry: Entry, seed: int) -> float:
    make_deterministic(False)
    bench = world.workbench(entry, reference=True, seed=seed)
    reference = Reference(bench, stage_of(bench), world.settings.workers, world.mean, world.std)
    for _ in range(world.settings.epochs):
        reference.train_epoch()
    reference.close()
    return reference.evaluate()


def _engine(world: World, entry: Entry, seed: int, loop: str) -> float:
    job, weights = world.job(entry, reference=False, seed=seed)
    precision = loop.removeprefix("engine ")
    job = job.model_copy(update={"recipe": job.recipe.model_copy(update={"precision": precision})})
    folder = world.folder / f"{loop.replace(' ', '_')}{seed}"
    result = train_student(job, Files(data=world.data, folder=folder, teachers=weights), lambda row: None)
    return float(result.rows[-1]["val_top1"])

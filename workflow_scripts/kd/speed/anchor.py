"""An anchor of its own: how many seconds one small network trains on this machine until it is so accurate.

A ratio to another loop says nothing of a machine; seconds to an accuracy can be held against any other code that trains
the same network on the same images.
"""

from itertools import accumulate
from pathlib import Path
from typing import Any

from kd.engine.jobs.student import train_student
from kd.speed.measure import Progress, spread
from kd.speed.settings import Settings
from kd.speed.world import World
from kd.tools.errors import UserError

VALIDATION = 0.2
"""Share of the images that the accuracy is read on."""
BASELINE = "ce"


def anchor(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return by network and accuracy the seconds to it, seed by seed, of trainings without a teacher.

    Seconds are those of training: validation and checkpoint after each epoch do not count, nor does the measurement of
    how the network runs fastest. A seed that does not get there has no seconds.
    """
    if not settings.data:
        raise UserError("anchor needs real images: name digits, a folder or archives in --data")
    settings = settings.model_copy(update={"epochs": settings.accuracy_epochs, "validation": VALIDATION})
    world = World(settings, folder)
    runs = []
    for seed in range(settings.seeds):
        runs.append(_run(world, seed))
        reached = runs[-1]["reached"]
        progress(f"seed {seed}: {'not reached' if reached is None else f'{reached:.2f} s'}")
    seconds = [run["reached"] for run in runs if run["reached"] is not None]
    found = {
        "target": settings.target,
        "epochs": settings.epochs,
        "images": len(world.workbench(BASELINE, reference=True).data.train),
        "runs": runs,
        "seconds": spread(seconds) if seconds else None,
    }
    return {f"{settings.student} to {settings.target:g} %": found}


def _run(world: World, seed: int) -> dict[str, Any]:
    """Return what one training reached after how many seconds, epoch by epoch."""
    ((job, files),) = world.jobs([BASELINE], reference=False, seed=seed)
    rows = train_student(job, files, lambda row: None).rows
    seconds = list(accumulate(float(row["seconds"]) for row in rows))
    top1 = [float(row["val_top1"]) for row in rows]
    there = [number for number, value in enumerate(top1) if value >= world.settings.target]
    return {
        "seconds": seconds,
        "top1": top1,
        "reached": seconds[there[0]] if there else None,
        "epoch": there[0] + 1 if there else None,
    }

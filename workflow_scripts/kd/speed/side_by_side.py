"""How many runs an hour: one, two, four and eight trained side by side in one process (co_train)."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd.engine.history import Row
from kd.engine.jobs.students import train_students
from kd.engine.precision import training_device
from kd.speed.measure import Progress, Timing, now
from kd.speed.settings import Entry, Settings
from kd.speed.world import World
from kd.study.made import drop_progress

COUNTS = (1, 2, 4, 8)
EPOCHS = 2
"""The first also folds teachers and counts FLOPs; the last is timed."""


def side_by_side(
    settings: Settings, folder: Path, progress: Progress, counts: Sequence[int] = COUNTS
) -> dict[str, Any]:
    """Return by number of runs the images a second that all of them make together, against as many one by one.

    The runs are distillations at different temperatures. What is timed is an epoch of so many images a repeat, with
    its validation and checkpoint.
    """
    held_out = max(settings.batch_size // 4, 2)
    images = settings.steps * settings.batch_size
    share = {"epochs": EPOCHS, "train_images": images + held_out, "validation": held_out / (images + held_out)}
    world = World(settings.model_copy(update=share), folder)
    timings = {count: Timing() for count in counts}
    for repeat in range(settings.repeats):
        for count in counts:
            own, wall = _epoch(world, count)
            timings[count].own.append(own / (count * images))
            timings[count].wall.append(wall / (count * images))
            progress(f"repeat {repeat + 1}, {count} side by side: {1 / timings[count].own[-1]:.0f} images/s")
    alone = timings[counts[0]]
    return {
        str(count): {"images_per_second": timing.images_per_second(), "gain": timing.ratio_to(alone)}
        for count, timing in timings.items()
    }


def _epoch(world: World, count: int) -> tuple[float, float]:
    """Return the seconds of the last epoch of some trainings, by the device's clock and by the wall's."""
    device = training_device()
    entries: list[Entry] = [{"method": "kd", "name": f"kd{k}", "temperature": 1.0 + k} for k in range(count)]
    jobs, files = zip(*world.jobs(entries, reference=False), strict=True)
    ends: list[tuple[float, float]] = []

    def on_epoch(row: Row) -> None:
        """Note when an epoch of one of them ends."""
        ends.append((now(device), time.perf_counter()))

    for one in files:  # a repeat trains anew
        drop_progress(one.folder)
    train_students(jobs, files, on_epoch)
    started, ended = ends[count * (EPOCHS - 1) - 1], ends[-1]
    return ended[0] - started[0], ended[1] - started[1]

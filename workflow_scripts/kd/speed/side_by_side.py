"""How many runs an hour: several trained side by side in one process (co_train), against as many one by one."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kd.engine.cotraining import Companion, Convoy, bundles_of, companion_of, steps_of
from kd.engine.history import Row
from kd.engine.jobs.students import train_students
from kd.engine.jobs.workbench import Workbench, prepare
from kd.engine.precision import training_device
from kd.speed.compare import build_engine
from kd.speed.engine import Engine
from kd.speed.measure import Progress, Timing, now
from kd.speed.settings import Entry, Settings, name_of
from kd.speed.world import World
from kd.study.made import drop_progress
from kd.tools.errors import UserError

EPOCHS = 2
"""The first also folds teachers and counts FLOPs; the last is timed."""


def side_by_side(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return by number of runs the images a second that all of them make together, against as many one by one.

    The runs are distillations at different temperatures. What is timed is an epoch of so many images a repeat, with
    its validation and checkpoint.
    """
    held_out = max(settings.batch_size // 4, 2)
    images = settings.steps * settings.batch_size
    share = {"epochs": EPOCHS, "train_images": images + held_out, "validation": held_out / (images + held_out)}
    world = World(settings.model_copy(update=share), folder)
    counts = settings.counts
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
    jobs, files = zip(*world.jobs(distillations(count), reference=False), strict=True)
    ends: list[tuple[float, float]] = []

    def on_epoch(row: Row) -> None:
        """Note when an epoch of one of them ends."""
        ends.append((now(device), time.perf_counter()))

    for one in files:  # a repeat trains anew
        drop_progress(one.folder)
    train_students(jobs, files, on_epoch)
    started, ended = ends[count * (EPOCHS - 1) - 1], ends[-1]
    return ended[0] - started[0], ended[1] - started[1]


def distillations(count: int) -> list[Entry]:
    """Return so many methods that cost the same: knowledge distillation at different temperatures."""
    return [{"method": "kd", "name": f"kd{k}", "temperature": 1.0 + k} for k in range(count)]


class Several:
    """Trainings side by side, driven for a number of steps instead of epochs."""

    def __init__(self, world: World, entries: Sequence[Entry]) -> None:
        """Make ready what fits the world's networks. Errors: UserError where no method does."""
        self.engines: dict[str, Engine] = {}
        self.left_out: dict[str, str] = {}
        """Why a method is not among them, by name."""
        first: Workbench | None = None
        for entry in entries:
            try:
                ((job, files),) = world.jobs([entry], reference=False)
                bench = prepare(job, files, first)
            except UserError as error:
                self.left_out[name_of(entry)] = str(error)
                continue
            first = first or bench
            self.engines[name_of(entry)] = build_engine(bench, world)
        if not self.engines:
            raise UserError(next(iter(self.left_out.values())))
        engine = next(iter(self.engines.values()))
        self.device = engine.bench.team.device
        self.warm_up = engine.warm_up
        self._steps = self._driven([companion_of(engine.training) for engine in self.engines.values()])

    def run(self, steps: int) -> None:
        """Train all of them on so many batches each."""
        for _ in range(steps):
            next(self._steps)

    def _driven(self, companions: list[Companion]) -> Iterator[int]:
        bundles = bundles_of(companions)
        convoy = Convoy(bundles) if companions[0].training.feed.tray is not None else None
        while True:
            if convoy is not None:
                convoy.begin_epoch()
                yield from convoy.steps()
                continue
            for companion in companions:
                companion.training.begin_epoch()
            for taken in zip(*map(steps_of, bundles), strict=True):
                yield taken[0]

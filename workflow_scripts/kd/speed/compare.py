"""Both loops on the same images, networks, loss and batch size, one after the other, again and again."""

import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from kd.engine.jobs.workbench import Workbench
from kd.engine.precision import allow_tf32, set_kernels, training_device
from kd.engine.resolve import stages_of_job
from kd.methods.contract import Stage
from kd.speed.engine import Engine
from kd.speed.measure import Memory, Progress, Stopwatch, in_turns, matrix_flops, now, seconds
from kd.speed.reference import Reference
from kd.speed.settings import LOOPS, STEP_PARTS, Entry
from kd.speed.world import World

PEAKS = 3


@dataclass
class Pair:
    """Both loops of one method, warmed up."""

    reference: Reference
    engine: Engine
    start: dict[str, dict[str, float]]
    """Seconds of each loop until after its first step: build, first step."""
    memory: dict[str, float]
    """MB that each loop adds at its peak."""

    @property
    def loops(self) -> dict[str, Reference | Engine]:
        """Return both by name, in the order in which they take turns."""
        return {"reference": self.reference, "engine": self.engine}

    @property
    def device(self) -> torch.device:
        """Return what both run on."""
        return self.reference.device

    @property
    def flops_per_image(self) -> float:
        """Return what a step needs for an image: the least that was counted, since a loop may do the same with more."""
        counted = (self.reference.flops_per_image, self.engine.flops_per_image)
        return min(value for value in counted if value > 0)


def compare(world: World, entry: Entry, progress: Progress, by_part: bool = True) -> dict[str, Any]:
    """Return everything that is measured of one method; the passes by part can be left out."""
    settings = world.settings
    with both_loops(world, entry) as pair:
        loops = {name: loop.run for name, loop in pair.loops.items()}
        timings = in_turns(loops, settings.steps, settings.batch_size, settings.repeats, pair.device, progress)
        parts = _parts(pair, settings.repeats) if by_part else {loop: {} for loop in LOOPS}
        peaks = _peaks(pair.device, pair.engine.bench.precision.name)
    measured = {loop: timings[loop].images_per_second() for loop in LOOPS}
    flops = pair.flops_per_image
    return {
        "stage": pair.engine.stage.name,
        "replayed": pair.engine.replays,
        "modes": {role: modes.record() for role, modes in pair.engine.bench.team.modes.items()},
        "ratio": timings["engine"].ratio_to(timings["reference"]),
        "flops_per_image": flops,
        "matrix_flops_per_second": peaks,
        **{
            loop: {
                "precision": "fp32" if loop == "reference" else pair.engine.bench.precision.name,
                "images_per_second": measured[loop],
                "seconds_by_part": parts[loop],
                "flops_per_second": flops * measured[loop]["own"]["median"],
                "share_of_peak": flops * measured[loop]["own"]["median"] / peaks[loop],
                "memory_mb": pair.memory[loop],
                "before_first_step": pair.start[loop],
            }
            for loop in LOOPS
        },
    }


@contextmanager
def both_loops(world: World, entry: Entry, seed: int = 0) -> Iterator[Pair]:
    """Build both loops, the reference first, take first steps with each, and stop the reference's workers at last."""
    start: dict[str, dict[str, float]] = {}
    memory: dict[str, float] = {}
    made: dict[str, Any] = {}
    device = training_device()
    for loop, build in (("reference", build_reference), ("engine", build_engine)):
        watch, started = Memory(device), now(device)
        made[loop] = build(world.workbench(entry, loop == "reference", seed), world)
        built = now(device) - started
        first = seconds(partial(made[loop].run, 1), device)
        start[loop] = {"build": built, "first_step": first}
        if loop == "reference":
            made[loop].count_flops()
        made[loop].run(made[loop].warm_up)
        memory[loop] = watch.added()
    try:
        yield Pair(made["reference"], made["engine"], start, memory)
    finally:
        made["reference"].close()


def stage_of(bench: Workbench) -> Stage:
    """Return the stage that a training spends most of its epochs in, the last of equals."""
    epochs = bench.job.recipe.epochs
    return max(reversed(stages_of_job(bench.job, bench.method)), key=lambda stage: stage.recipe.get("epochs", epochs))


def build_reference(bench: Workbench, world: World) -> Reference:
    """Return the plain loop of a job."""
    reference = Reference(bench, stage_of(bench), world.settings.workers, world.mean, world.std)
    reference.teacher_logits = _fixed(bench)
    return reference


def build_engine(bench: Workbench, world: World) -> Engine:
    """Return the engine's loop of a job."""
    set_kernels(bench.job.recipe)
    return Engine(bench, stage_of(bench), world.folder, _fixed(bench))


def _fixed(bench: Workbench) -> torch.Tensor | None:
    """Return logits (K,n,C) to stand for those of the fixed view, for methods that learn from it."""
    if not bench.wants.fixed_teacher:
        return None
    shape = (len(bench.job.teachers), len(bench.data.train), bench.data.num_classes)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(bench.team.device)


def _peaks(device: torch.device, precision: str) -> dict[str, float]:
    """Return the FLOP/s of a large matrix product in each loop's number format."""
    return {"reference": _peak(device, "fp32"), "engine": _peak(device, precision)}


@cache
def _peak(device: torch.device, precision: str) -> float:
    """Return the best of several tries, made once a process."""
    allow_tf32(precision == "tf32")
    return max(matrix_flops(device, precision) for _ in range(PEAKS))


# --- seconds by part ------------------------------------------------------------------------------


def _parts(pair: Pair, repeats: int) -> dict[str, dict[str, float]]:
    """Return seconds a step by part, medians of steps in turns with a clock around each part, and of one evaluation."""
    watches: dict[str, list[Stopwatch]] = {loop: [] for loop in LOOPS}
    for _ in range(repeats):
        watches["reference"].append(_watched_reference(pair.reference))
        watches["engine"].append(_watched_engine(pair.engine))
    return {
        loop: {
            **{part: statistics.median(watch.parts.get(part, 0.0) for watch in watches[loop]) for part in STEP_PARTS},
            "evaluation": seconds(pair.loops[loop].evaluate, pair.device),
        }
        for loop in LOOPS
    }


def _watched_reference(reference: Reference) -> Stopwatch:
    watch = Stopwatch(reference.device)
    targets = [(reference, "fetch", "data"), (reference, "teach", "teacher"), (reference, "forward", "student")]
    common = _common_targets(reference.method, reference.optimizers.values())
    with watch.watching(*targets, *common), watch.part("host"):
        reference.run(1)
    return watch


def _watched_engine(engine: Engine) -> Stopwatch:
    team = engine.bench.team
    watch = Stopwatch(team.device)
    targets = [(engine, "fetch", "data"), (engine.frozen, "outputs", "teacher"), (team, "forward", "student")]
    common = _common_targets(engine.bench.method, engine.training.stage_run.optimizers.values())
    with watch.watching(*targets, *common), watch.part("host"):
        engine.run_by_step(1)
    return watch


def _common_targets(method: Any, optimizers: Iterable[torch.optim.Optimizer]) -> list[tuple[Any, str, str]]:
    steps = [(optimizer, name, "optimiser") for optimizer in optimizers for name in ("step", "zero_grad")]
    gradients = [(torch.Tensor, "backward", "student"), (torch.autograd, "grad", "student")]
    return [(method, "loss", "loss"), *gradients, *steps]

"""Both loops on the same images, networks, loss and batch size, one after the other, again and again."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from kd.benchmark.engine import Engine
from kd.benchmark.measure import Memory, Stopwatch, matrix_flops, seconds
from kd.benchmark.reference import Reference
from kd.benchmark.world import World
from kd.engine.jobs import Workbench
from kd.engine.precision import make_deterministic
from kd.methods.contract import Stage

PARTS = ("data", "teacher", "student", "loss", "optimiser", "host")
LOOPS = ("reference", "engine")
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

    def close(self) -> None:
        """Stop the reference's workers."""
        self.reference.close()


Progress = Callable[[str], None]
Values = dict[str, list[float]]


def compare(world: World, entry: str | dict[str, Any], progress: Progress, by_part: bool = True) -> dict[str, Any]:
    """Return everything that is measured of one method; the passes by part can be left out."""
    settings = world.settings
    pair = make_pair(world, entry)
    try:
        speeds, processor = _interleaved(pair, settings.steps, settings.batch_size, settings.repeats, progress)
        parts: dict[str, dict[str, float]] = {loop: {} for loop in LOOPS}
        if by_part:
            parts = _parts(pair, settings.repeats)
        device = pair.engine.bench.team.device
        peaks = _peaks(device, pair.engine.bench.precision.name)
    finally:
        pair.close()
    ratios = [mine / theirs for mine, theirs in zip(speeds["engine"], speeds["reference"], strict=True)]
    work = [theirs / mine for mine, theirs in zip(processor["engine"], processor["reference"], strict=True)]
    flops = _flops_per_image(pair)
    loops = {
        loop: {
            "precision": "fp32" if loop == "reference" else pair.engine.bench.precision.name,
            "images_per_second": spread(speeds[loop]),
            "processor_seconds_per_image": spread(processor[loop]),
            "seconds_by_part": parts[loop],
            "flops_per_second": flops * statistics.median(speeds[loop]),
            "share_of_peak": flops * statistics.median(speeds[loop]) / peaks[loop],
            "memory_mb": pair.memory[loop],
            "before_first_step": pair.start[loop],
        }
        for loop in LOOPS
    }
    return {
        "method": settings.name_of(entry),
        "stage": pair.engine.stage.name,
        "batch_size": settings.batch_size,
        "images_per_repeat": settings.steps * settings.batch_size,
        "ratio": spread(ratios),
        # what other processes do to a busy machine's clock drops out of this one; the reference's workers do not count
        "processor_ratio": spread(work),
        "flops_per_image": flops,
        "matrix_flops_per_second": peaks,
        **loops,
    }


def make_pair(world: World, entry: str | dict[str, Any], seed: int = 0) -> Pair:
    """Build both loops, the reference first, and take a first step with each."""
    start: dict[str, dict[str, float]] = {}
    memory: dict[str, float] = {}
    made: dict[str, Any] = {}
    for loop in LOOPS:
        started = time.perf_counter()
        bench = world.workbench(entry, loop == "reference", seed)
        watch = Memory(bench.team.device)
        made[loop] = _reference(bench, world) if loop == "reference" else _engine(bench, world)
        built = time.perf_counter() - started
        first = seconds(partial(made[loop].run, 1), bench.team.device)
        if loop == "reference":
            made[loop].count_flops()
        made[loop].run(1)
        start[loop] = {"build": round(built, 3), "first_step": round(first, 3)}
        memory[loop] = watch.added()
    return Pair(made["reference"], made["engine"], start, memory)


def stage_of(bench: Workbench) -> Stage:
    """Return the stage that a training spends most of its epochs in, the last of equals."""
    half = bench.job.half
    stages = [bench.method.half_stage(half)] if half else bench.method.plan()
    epochs = bench.job.recipe.epochs
    return max(reversed(stages), key=lambda stage: stage.recipe.get("epochs", epochs))


def _reference(bench: Workbench, world: World) -> Reference:
    make_deterministic(False)
    reference = Reference(bench, stage_of(bench), world.settings.workers, world.mean, world.std)
    reference.teacher_logits = _fixed(bench)
    return reference


def _engine(bench: Workbench, world: World) -> Engine:
    make_deterministic(bench.job.recipe.deterministic)
    return Engine(bench, stage_of(bench), world.folder, _fixed(bench))


def _fixed(bench: Workbench) -> torch.Tensor | None:
    """Return logits (K,n,C) to stand for those of the fixed view, for methods that learn from it."""
    if not bench.method.needs().fixed_teacher:
        return None
    shape = (len(bench.job.teachers), len(bench.data.train), bench.data.num_classes)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(bench.team.device)


# --- timing ---------------------------------------------------------------------------------------


def _interleaved(pair: Pair, steps: int, batch_size: int, repeats: int, progress: Progress) -> tuple[Values, Values]:
    """Return images a second, and processor seconds an image, of each loop in each repeat, A B A B."""
    device = pair.engine.bench.team.device
    speeds: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    processor: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    for repeat in range(repeats):
        for loop, run in (("reference", _plain(pair.reference)), ("engine", pair.engine.run)):
            busy = time.process_time()
            taken = seconds(partial(run, steps), device)
            processor[loop].append((time.process_time() - busy) / (steps * batch_size))
            speeds[loop].append(steps * batch_size / taken)
            progress(f"repeat {repeat + 1} of {repeats}, {loop}: {speeds[loop][-1]:.0f} images/s")
    return speeds, processor


def _plain(reference: Reference) -> Callable[[int], None]:
    def run(steps: int) -> None:
        """Train as the field's scripts do, with whatever kernel is fastest."""
        make_deterministic(False)
        reference.run(steps)

    return run


def _peaks(device: torch.device, precision: str) -> dict[str, float]:
    """Return the FLOP/s of a large matrix product in each loop's number format, the best of several tries."""
    found = {name: max(matrix_flops(device, name) for _ in range(PEAKS)) for name in {"fp32", precision}}
    return {"reference": found["fp32"], "engine": found[precision]}


def _flops_per_image(pair: Pair) -> float:
    """Return what a step needs for an image: the least that was counted, since a loop may do the same with more."""
    engine = pair.engine.training.flops_per_image or 0.0
    counted = [pair.reference.flops_per_image, engine + pair.engine.onlookers.flops_per_image]
    return min(value for value in counted if value > 0)


def _parts(pair: Pair, repeats: int) -> dict[str, dict[str, float]]:
    """Return seconds a step by part, medians of steps in turns with a clock around each part, and of one evaluation."""
    watches: dict[str, list[Stopwatch]] = {loop: [] for loop in LOOPS}
    for _ in range(repeats):
        watches["reference"].append(_watched_reference(pair.reference))
        watches["engine"].append(_watched_engine(pair.engine))
    device = pair.reference.device
    evaluations = {loop: seconds(getattr(pair, loop).evaluate, device) for loop in LOOPS}
    return {
        loop: {
            **{part: statistics.median(watch.parts.get(part, 0.0) for watch in watches[loop]) for part in PARTS},
            "evaluation": evaluations[loop],
        }
        for loop in LOOPS
    }


def _watched_reference(reference: Reference) -> Stopwatch:
    watch = Stopwatch(reference.device)
    targets = [(reference, "fetch", "data"), (reference, "teach", "teacher"), (reference, "forward", "student")]
    common = _common_targets(reference.method, reference.optimizers.values())
    with watch.watching(*targets, *common), watch.part("host"):
        _plain(reference)(1)
    return watch


def _watched_engine(engine: Engine) -> Stopwatch:
    team = engine.bench.team
    watch = Stopwatch(team.device)
    targets = [(engine, "fetch", "data"), (engine.onlookers, "outputs", "teacher"), (team, "forward", "student")]
    common = _common_targets(engine.bench.method, engine.training.optimizers.values())
    with watch.watching(*targets, *common), watch.part("host"):
        engine.run(1)
    return watch


def _common_targets(method: Any, optimizers: Any) -> list[tuple[Any, str, str]]:
    steps = [(optimizer, name, "optimiser") for optimizer in optimizers for name in ("step", "zero_grad")]
    gradients = [(torch.Tensor, "backward", "student"), (torch.autograd, "grad", "student")]
    return [(method, "loss", "loss"), *gradients, *steps]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, extremes and all values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}

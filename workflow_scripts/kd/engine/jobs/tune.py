"""The rule `tune`: which number format, layout and kernels run a network fastest here, by a short measurement.

Networks differ: depthwise convolutions fall into very slow kernels in some modes, small ones gain nothing from
compiling. Every run of an experiment that uses a network reads one choice, so comparisons are fair and reruns equal.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import kd.models.winograd  # noqa: F401  a choice, and so what reads it, is made by this code too
from kd.engine.data import load_data
from kd.engine.jobs.files import Files
from kd.engine.modes import AUTO, COMPILED, TORCH, WINOGRAD, Mode, Modes
from kd.engine.precision import has_fast_bf16, runs_bf16, set_kernels, training_device
from kd.engine.team import Team
from kd.methods.contract import STUDENT, Stage, Update
from kd.models.build import build_model
from kd.record.provenance import hardware, versions
from kd.schema.config import Recipe
from kd.study.job_settings import JobSettings
from kd.tools.files import write_json

log = logging.getLogger(__name__)

USES = ("trained", "frozen")
TRIAL_IMAGES = 8
HOPELESS = 4.0
"""A mode so many times slower than the best one on a few images is not measured further."""
ROUNDS = 7
SECONDS = 20.0
"""No further round begins after so long; two are always made."""
CLEARLY = 0.95
"""What is less than 5 % faster than a simpler mode is not chosen."""
LARGEST_GAIN = 0.35
"""Share of a step that compiling may save: it is not even tried where that would not pay."""
TYPICAL_BUILD_SECONDS = 40.0
PAYBACK = 3.0
"""Compiling must save so many times its own seconds within one training."""

Pass = Callable[[Tensor, Tensor], None]


@dataclass
class Candidate:
    """A mode and how long it took."""

    mode: Mode
    trial: float = float("inf")
    """Seconds for a few images."""
    rounds: list[float] = field(default_factory=list)
    """Seconds for a batch."""
    build: float = 0.0
    """Seconds to compile."""
    problem: str = ""

    @property
    def seconds(self) -> float:
        """Return the least time of a batch: what disturbs it only ever adds."""
        return min(self.rounds, default=float("inf"))


def tune(job: JobSettings, files: Files) -> None:
    """Write choice.json, which trainings read, and measured.json, what it rests on."""
    device = training_device()
    set_kernels(job.recipe)
    data = load_data(files.data, job, device)
    size = min(job.recipe.batch_size, len(data.train))
    images, labels, _ = next(iter(data.train.batches(torch.arange(size), size)))
    batch = data.augmenter.plain(images), labels
    passes = len(data.train) * job.recipe.epochs / size
    found = {use: measure(job, data.num_classes, batch, use, passes) for use in USES}
    choice = {use: asdict(best(candidates, passes).mode) for use, candidates in found.items()}
    for use, candidates in found.items():
        log.info("%s %s: %s", job.student.arch if job.student else "", use, best(candidates, passes).mode)
    record = {
        "batch_size": size,
        "batches": passes,
        "measured": {use: [_row(each) for each in candidates] for use, candidates in found.items()},
        "hardware": hardware(device, "measured"),
        "versions": versions(),
    }
    write_json(files.folder / "measured.json", record)
    write_json(files.folder / "choice.json", {"device": device.type, **choice})


def modes_to_try(recipe: Recipe, device: torch.device) -> list[Mode]:
    """Return what the recipe leaves open, simpler modes first; compiled ones are last."""
    gpu = device.type == "cuda"
    fast = ["bf16"] if runs_bf16(device) else ["fp16"] if gpu else []
    formats = [*fast, "fp32"] if gpu or has_fast_bf16(device) else ["fp32", *fast]
    layouts = [True, False] if recipe.channels_last == AUTO else [bool(recipe.channels_last)]
    kernels: list[str] = [TORCH, WINOGRAD, COMPILED] if recipe.kernels == AUTO else [recipe.kernels]
    every = [Mode(*each) for each in product(formats, layouts, kernels)]
    possible = [mode for mode in every if mode.kernels != WINOGRAD or _winograd_runs(mode, device)]
    return sorted(possible, key=lambda mode: kernels.index(mode.kernels))


def _winograd_runs(mode: Mode, device: torch.device) -> bool:
    return device.type == "cpu" and mode.precision == "fp32" and mode.channels_last


def measure(
    job: JobSettings, num_classes: int, batch: tuple[Tensor, Tensor], use: str, passes: float
) -> list[Candidate]:
    """Return all candidates with their times: a few images each, then whole batches of those with a chance."""
    images, _ = batch
    candidates = [Candidate(mode) for mode in modes_to_try(job.recipe, images.device)]
    eager = [each for each in candidates if each.mode.kernels != COMPILED] or candidates
    _race(eager, job, num_classes, batch, use)
    fastest = min(each.seconds for each in eager)
    compiled = [each for each in candidates if each not in eager and pays(LARGEST_GAIN * fastest, passes)]
    if compiled:
        best_eager = min(eager, key=lambda each: each.seconds).mode
        of_best = [each for each in compiled if _same_but_kernels(each.mode, best_eager)]
        _race(of_best, job, num_classes, batch, use)
    return candidates


def pays(saved: float, passes: float, build: float = TYPICAL_BUILD_SECONDS) -> bool:
    """Whether seconds saved in each of so many batches earn back the seconds of compiling."""
    return saved * passes > PAYBACK * build


def best(candidates: Sequence[Candidate], passes: float) -> Candidate:
    """Return the first candidate, or a later one that is clearly faster than the best before it and pays its way."""
    chosen = candidates[0]
    for each in candidates[1:]:
        faster = each.seconds < CLEARLY * chosen.seconds
        if faster and (not each.build or pays(chosen.seconds - each.seconds, passes, each.build)):
            chosen = each
    return chosen


def _race(
    candidates: Sequence[Candidate], job: JobSettings, num_classes: int, batch: tuple[Tensor, Tensor], use: str
) -> None:
    """Time the candidates in turns, so that what disturbs the machine meets all of them."""
    images, labels = batch
    runs: dict[int, Pass] = {}
    for number, each in enumerate(candidates):
        try:
            runs[number] = _pass(job, num_classes, each.mode, use, images)
            if each.mode.kernels != COMPILED:
                few = images[:TRIAL_IMAGES], labels[:TRIAL_IMAGES]
                each.trial = min(_timed(runs[number], *few) for _ in range(2))
            else:
                each.build = _timed(runs[number], images, labels)
        except RuntimeError as error:  # no kernel for a case, or no memory: not a mode for this network
            each.problem = str(error).strip().splitlines()[0]
            runs.pop(number, None)
    least = min(each.trial for each in candidates)
    racing = [number for number in runs if candidates[number].trial <= HOPELESS * least]
    started = time.perf_counter()
    for number in range(ROUNDS):
        if number >= 2 and time.perf_counter() - started > SECONDS:
            break
        for racer in racing:
            candidates[racer].rounds.append(_timed(runs[racer], images, labels))


def _pass(job: JobSettings, num_classes: int, mode: Mode, use: str, images: Tensor) -> Pass:
    """Return one training step without the optimiser, or one pass of a frozen network, for such images."""
    assert job.student is not None, "the network that is measured"
    torch.manual_seed(0)
    model = build_model(job.student.model_copy(update={"pretrained": False}), num_classes, images.shape[-1])
    team = Team({STUDENT: model}, images.device, {STUDENT: Modes(mode, mode)})
    trains = (STUDENT,) if use == "trained" else ()
    team.enter(Stage("measure", (Update(STUDENT, trains),)))
    team.fold([] if trains else [STUDENT])
    precision = mode.on(images.device)

    def step(images: Tensor, labels: Tensor) -> None:
        """Run the network, and back where it is trained."""
        logits = team.forward(images, precision, frozenset(trains))[STUDENT].logits
        if trains:
            F.cross_entropy(logits, labels).backward()
            model.zero_grad(set_to_none=True)

    return step


def _timed(run: Pass, images: Tensor, labels: Tensor) -> float:
    _finish(images.device)
    started = time.perf_counter()
    run(images, labels)
    _finish(images.device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _same_but_kernels(one: Mode, other: Mode) -> bool:
    return (one.precision, one.channels_last) == (other.precision, other.channels_last)


def _row(each: Candidate) -> dict[str, Any]:
    seconds = each.seconds if each.rounds else None
    times = {"seconds_a_batch": seconds, "build_seconds": each.build or None, "problem": each.problem or None}
    trial = {"seconds_of_trial": None if each.trial == float("inf") else each.trial}
    return {**asdict(each.mode), **times, **trial}

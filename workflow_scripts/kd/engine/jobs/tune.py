"""The rule `tune`: which number format, layout and kernels run a network fastest here, by a short measurement.

Networks differ: depthwise convolutions fall into very slow kernels in some modes, small ones gain nothing from
compiling. Every run of an experiment that uses a network reads one choice, so comparisons are fair and reruns equal.

What is timed is what will run. On a GPU that is a pass within a captured step: launched kernel by kernel, the passes of
small networks take as long as their launches do, whatever the number format.
"""

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import kd.models.winograd  # noqa: F401  a choice, and so what reads it, is made by this code too
from kd.engine.capture import CudaGraph
from kd.engine.data import Data, load_data
from kd.engine.jobs.files import Files
from kd.engine.jobs.shelf import Shelf
from kd.engine.modes import AUTO, COMPILED, TORCH, WINOGRAD, Mode, Modes
from kd.engine.precision import has_fast_bf16, runs_bf16, set_kernels, training_device
from kd.engine.team import Team
from kd.methods.contract import STUDENT, Stage, Update
from kd.models.build import build_model
from kd.record.provenance import hardware, versions
from kd.schema.config import Recipe
from kd.study.digests import canonical
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
PAYBACK = {"cpu": 3.0, "cuda": 1.0}
"""Compiling must save so many times its own seconds within one training: less on a GPU, where many trainings follow
that find in the cache what was compiled."""
REPLAYS = {"cpu": 1, "cuda": 20}
"""Passes of one round: on a GPU one is over before a clock has been read twice."""
WARM_UP = 2
"""Passes before one is captured."""

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

    @property
    def tried(self) -> bool:
        """Whether it ran, or was found not to."""
        return bool(self.rounds or self.problem)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Candidate":
        """Return what `_row` wrote down."""
        mode = Mode(row["precision"], row["channels_last"], row["kernels"])
        rounds = [] if row["seconds_a_batch"] is None else [row["seconds_a_batch"]]
        trial = float("inf") if row["seconds_of_trial"] is None else row["seconds_of_trial"]
        return cls(mode, trial, rounds, row["build_seconds"] or 0.0, row["problem"] or "")


def tune(job: JobSettings, files: Files, cache: Path | None = None) -> None:
    """Write choice.json, which trainings read, and measured.json, what it rests on.

    What any experiment measured of the same network on such a machine, and left in the `cache`, is not measured again.
    """
    device = training_device()
    set_kernels(job.recipe)
    data = load_data(files.data, job, device)
    size = min(job.recipe.batch_size, len(data.train))
    images, labels, _ = next(iter(data.train.batches(torch.arange(size), size)))
    batch = data.augmenter.plain(images), labels
    passes = len(data.train) * job.recipe.epochs / size
    # without the digest of the code nobody could tell what an older code measured
    shelf = Shelf(cache if files.code else None)
    found, known = {}, {}
    for use in USES:
        about = _about(job, data, device, size, use, files.code)
        with shelf.alone(*_crowded(device), canonical(about)):
            found[use], known[use] = _kept(shelf, about, job, data.num_classes, batch, passes)
    choice = {use: asdict(best(candidates, passes, device.type).mode) for use, candidates in found.items()}
    for use, candidates in found.items():
        chosen = best(candidates, passes, device.type).mode
        log.info("%s %s: %s%s", job.student and job.student.arch, use, chosen, ", as measured before" * known[use])
    record = {
        "batch_size": size,
        "batches": passes,
        "measured": {use: [_row(each) for each in candidates] for use, candidates in found.items()},
        "measured_before": known,
        "hardware": hardware(device, "measured"),
        "versions": versions(),
    }
    write_json(files.folder / "measured.json", record)
    write_json(files.folder / "choice.json", {"device": device.type, **choice})


def _crowded(device: torch.device) -> list[str]:
    """Return where nobody else is to measure: a GPU. A CPU has cores for several, as jobs count them."""
    on = hardware(device, "measured")
    return [f"{platform.node()} {on.get('visible_devices', '0')}"] if device.type == "cuda" else []


def _about(job: JobSettings, data: Data, device: torch.device, size: int, use: str, code: str) -> dict[str, Any]:
    """Return all that a measurement depends on; on a CPU the threads too, of which --cores may leave fewer."""
    assert job.student is not None, "the network that is measured"
    on = hardware(device, "measured")
    recipe = job.recipe.model_dump(mode="json", include={"channels_last", "kernels", "deterministic", "capture"})
    return {
        "device": on["gpu"] if device.type == "cuda" else [on["cpu"], on["threads"]],
        "versions": versions()["torch"],
        "network": job.student.model_dump(mode="json", include={"arch", "small_input"}),
        "classes": data.num_classes,
        "image_size": data.image_size,
        "batch_size": size,
        "use": use,
        "recipe": recipe,
        "code": code,
    }


def _kept(
    shelf: Shelf,
    about: Mapping[str, Any],
    job: JobSettings,
    num_classes: int,
    batch: tuple[Tensor, Tensor],
    passes: float,
) -> tuple[list[Candidate], bool]:
    """Return all candidates with their times, and whether they were known: if so, the shelf has them."""
    rows, device = shelf.read(about), batch[0].device.type
    known = [Candidate.of(row) for row in rows or ()]
    # whoever trained too short to earn a compilation back did not try one
    if known and not _worth_compiling(known, passes, device):
        return known, True
    measured = measure(job, num_classes, batch, str(about["use"]), passes)
    shelf.keep(about, [_row(each) for each in measured])
    return measured, False


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
    device = images.device.type
    candidates = [Candidate(mode) for mode in modes_to_try(job.recipe, images.device)]
    eager = [each for each in candidates if each.mode.kernels != COMPILED] or candidates
    race = partial(_race, job=job, num_classes=num_classes, batch=batch, use=use)
    for heat, captured in _heats(eager, job.recipe, images.device):
        race(heat, captured=captured)
        if any(each.rounds for each in heat):
            break
    race(_worth_compiling(candidates, passes, device), captured=captured)
    return candidates


def _captures(recipe: Recipe, device: torch.device) -> bool:
    return device.type == "cuda" and recipe.capture != "off"


def _heats(eager: list[Candidate], recipe: Recipe, device: torch.device) -> Iterator[tuple[list[Candidate], bool]]:
    """Yield which modes are compared, and whether captured, until one of them runs.

    Where a GPU is given kernel by kernel what it does, because steps are not captured or cannot be, times are those of
    launches. float32 takes fewest, for its weights need no cast, and would be chosen though it computes slowest.
    """
    if _captures(recipe, device):
        yield eager, True
    if device.type == "cuda":
        yield [each for each in eager if each.mode.precision != "fp32"], False
    yield eager, False


def _worth_compiling(candidates: Sequence[Candidate], passes: float, device: str) -> list[Candidate]:
    """Return the compiled mode that is still to be tried: the fastest other one's, if it may earn its build back."""
    compiled = [each for each in candidates if each.mode.kernels == COMPILED]
    others = [each for each in candidates if each.mode.kernels != COMPILED]
    if not others or any(each.tried for each in compiled):
        return []
    fastest = min(others, key=lambda each: each.seconds)
    likes = [each for each in compiled if _same_but_kernels(each.mode, fastest.mode)]
    return likes if pays(LARGEST_GAIN * fastest.seconds, passes, device=device) else []


def pays(saved: float, passes: float, build: float = TYPICAL_BUILD_SECONDS, device: str = "cpu") -> bool:
    """Whether seconds saved in each of so many batches earn back the seconds of compiling."""
    return saved * passes > PAYBACK[device] * build


def best(candidates: Sequence[Candidate], passes: float, device: str = "cpu") -> Candidate:
    """Return the first candidate, or a later one that is clearly faster than the best before it and pays its way."""
    chosen = candidates[0]
    for each in candidates[1:]:
        faster = each.seconds < CLEARLY * chosen.seconds
        if faster and (not each.build or pays(chosen.seconds - each.seconds, passes, each.build, device)):
            chosen = each
    return chosen


def _race(
    candidates: Sequence[Candidate],
    job: JobSettings,
    num_classes: int,
    batch: tuple[Tensor, Tensor],
    use: str,
    captured: bool,
) -> None:
    """Time the candidates in turns, so that what disturbs the machine meets all of them."""
    images, labels = batch
    runs: dict[int, Pass] = {}
    for number, each in enumerate(candidates):
        try:
            run = _pass(job, num_classes, each.mode, use, images, captured)
            if each.mode.kernels == COMPILED:
                each.build = _timed(run, images, labels)
            elif not captured:
                few = images[:TRIAL_IMAGES], labels[:TRIAL_IMAGES]
                each.trial = min(_timed(run, *few) for _ in range(2))
            runs[number] = _captured(run, images, labels) if captured else run
        except RuntimeError as error:  # no kernel for a case, or no memory: not a mode for this network
            each.problem = str(error).strip().splitlines()[0]
    least = min((each.trial for each in candidates), default=0.0)
    racing = [number for number in runs if candidates[number].trial <= HOPELESS * least]
    started = time.perf_counter()
    for number in range(ROUNDS):
        if number >= 2 and time.perf_counter() - started > SECONDS:
            break
        for racer in racing:
            times = REPLAYS[images.device.type]
            candidates[racer].rounds.append(_timed(runs[racer], images, labels, times))


def _captured(run: Pass, images: Tensor, labels: Tensor) -> Pass:
    """Return the replay of a pass on these images; a RuntimeError for one that waits for the host."""
    graph = CudaGraph(images.device)
    for _ in range(WARM_UP):
        graph.run(partial(run, images, labels))
    if reason := graph.waits(partial(run, images, labels)):
        raise RuntimeError(reason)
    graph.record(partial(run, images, labels))
    return lambda images, labels: graph.replay()


def _pass(job: JobSettings, num_classes: int, mode: Mode, use: str, images: Tensor, captured: bool) -> Pass:
    """Return one training step without the optimiser, or one pass of a frozen network, for such images."""
    assert job.student is not None, "the network that is measured"
    torch.manual_seed(0)
    model = build_model(job.student.model_copy(update={"pretrained": False}), num_classes, images.shape[-1])
    team = Team({STUDENT: model}, images.device, {STUDENT: Modes(mode, mode)})
    team.captured = captured
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


def _timed(run: Pass, images: Tensor, labels: Tensor, times: int = 1) -> float:
    """Return the seconds of a pass, the mean of so many."""
    _finish(images.device)
    started = time.perf_counter()
    for _ in range(times):
        run(images, labels)
    _finish(images.device)
    return (time.perf_counter() - started) / times


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

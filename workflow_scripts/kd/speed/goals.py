"""What the engine is to reach on a GPU, each goal measured and put beside its aim, within minutes.

All figures of a call come from one process on one device: the reference loop and the engine in turns. What there was no
time for is said to be so, and counts as neither reached nor missed.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from kd.engine.jobs.student import train_student
from kd.engine.jobs.students import train_students
from kd.engine.precision import runs_bf16, training_device
from kd.methods.contract import STUDENT
from kd.record.provenance import git_state, hardware, versions
from kd.speed.compare import compare
from kd.speed.measure import in_turns, seconds, spread
from kd.speed.recipe import PAIRS
from kd.speed.report import EPOCHS, FIELD, IMAGES, SEEDS, TEST_IMAGES
from kd.speed.settings import Entry, Settings, name_of
from kd.speed.side_by_side import Several, distillations
from kd.speed.world import World
from kd.tools.errors import UserError
from kd.tools.files import write_json

AIMED_KD = {64: 6.0, 256: 4.0}
"""Times the reference loop's images a second, by batch size."""
AIMED_METHOD = 3.5
"""The same for every method at the smaller batch."""
AIMED_TOGETHER = 14.0
"""Times the reference loop's, all student images of so many runs counted."""
TOGETHER = 8
COUNTS = (1, TOGETHER, 15, 2, 4)
"""Students side by side; those that are aimed at come first."""
AIMED_HOURS = 40.0
"""For the field's whole table on one device."""
ALIKE: tuple[Entry, ...] = ("kd", {"method": "crd", "negatives": 256}, "dml", "mlkd")
"""Methods whose captured trainings are compared with eager ones: with draws on the device, updates and views."""
RESERVED = 200.0
"""Seconds that the methods leave to the hours of the table."""

log = logging.getLogger(__name__)


@dataclass
class Line:
    """One goal: what was found, what was aimed at, and whether it is reached; None where nothing was to be reached."""

    goal: str
    found: str
    aimed: str = ""
    reached: bool | None = None
    figures: Any = None


@dataclass
class Goals:
    """All goals of one call, and the time that is left for them."""

    settings: Settings
    folder: Path
    until: float
    """When to begin nothing more, by the clock of time.monotonic."""
    pairs: Sequence[tuple[str, str]] = field(default_factory=lambda: PAIRS)
    lines: list[Line] = field(default_factory=list)
    reference: float | None = None
    """Images a second of the reference loop with KD at the settings' batch size."""

    @property
    def plain(self) -> Settings:
        """Return settings that need no measurement of each network: half precision where there is one, as it is."""
        fast = "bf16" if runs_bf16(training_device()) and training_device().type == "cuda" else "fp32"
        recipe = {"kernels": "torch", **self.settings.recipe}
        asked = self.settings.precision
        return self.settings.model_copy(update={"precision": fast if asked == "auto" else asked, "recipe": recipe})

    def measure(self) -> Iterator[Line]:
        """Yield line after line, the most telling first."""
        for part in (self.equality, self.speed, self.together, self.methods, self.hours):
            try:
                for line in part():
                    self.lines.append(line)
                    yield line
            except (UserError, RuntimeError) as error:  # one goal's trouble is no other's
                log.log(logging.DEBUG if isinstance(error, UserError) else logging.ERROR, "%s", error, exc_info=True)
                self.lines.append(Line(part.__name__, f"failed: {str(error).splitlines()[0]}", reached=False))
                yield self.lines[-1]

    def _late(self, before: float = 0.0) -> bool:
        return time.monotonic() > self.until - before

    # --- captured equals eager ------------------------------------------------------------------

    def equality(self) -> Iterator[Line]:
        """Compare weights after two epochs of trainings that are captured, that are not, and that share a graph."""
        size = self.settings.batch_size
        # five batches and a half an epoch: three are warm-up, others are replayed, and the last one is smaller
        few = {"train_images": 7 * size + size // 2, "validation": 2 / 7.5, "epochs": 2}
        settings = self.plain.model_copy(update={**few, "recipe": {**self.plain.recipe, "deterministic": True}})
        world = World(settings, self.folder / "alike")
        captured = {name_of(entry): self._trained(world, [entry], "captured") for entry in ALIKE}
        off = settings.model_copy(update={"recipe": {**settings.recipe, "capture": "off"}})
        eager_world = World(off, self.folder / "alike")
        different = [
            name
            for entry in ALIKE
            if not _same(captured[name := name_of(entry)], self._trained(eager_world, [entry], "eager"))
        ]
        yield _equal_line("captured trainings end as eager ones, bit for bit", different)
        taught = [entry for entry in ALIKE if name_of(entry) != "dml"]  # which has no teacher, and so another team
        shared = self._trained(world, taught, "together")
        alone = {name: state for entry in taught for name, state in captured[name_of(entry)].items()}
        different = [name for name, state in alone.items() if not _same({name: state}, {name: shared[name]})]
        yield _equal_line("students side by side end as alone, bit for bit", different)

    def _trained(self, world: World, entries: list[Entry], name: str) -> "States":
        """Train methods together, or one alone, and return their last weights by name."""
        made = world.jobs(entries, reference=False)
        jobs, files = zip(*made, strict=True)
        folders = [
            type(one)(**{**vars(one), "folder": world.folder / name / name_of(entry)})
            for one, entry in zip(files, entries, strict=True)
        ]
        if len(entries) > 1:
            train_students(jobs, folders, lambda row: None)
        else:
            train_student(jobs[0], folders[0], lambda row: None)
        return {
            name_of(entry): load_file(one.folder / "checkpoints" / "last.safetensors")
            for entry, one in zip(entries, folders, strict=True)
        }

    # --- speed ----------------------------------------------------------------------------------

    def speed(self) -> Iterator[Line]:
        """Time KD against the reference loop at each batch size."""
        first = self.settings.batch_size
        found = compare(World(self.settings, self.folder), "kd", log.info, by_part=False)
        self.reference = found["reference"]["images_per_second"]["wall"]["median"]
        yield _ratio_line(f"KD at batch {first}", found, AIMED_KD.get(first))
        # what was measured to be fastest at one size is taken for the others, too
        mode = found["modes"][STUDENT]["trained"]
        for size in [size for size in AIMED_KD if first in AIMED_KD and size != first]:
            recipe = {**self.settings.recipe, "channels_last": mode["channels_last"], "kernels": mode["kernels"]}
            at = {"batch_size": size, "precision": mode["precision"], "recipe": recipe}
            found = compare(World(self.settings.model_copy(update=at), self.folder), "kd", log.info, by_part=False)
            yield _ratio_line(f"KD at batch {size}", found, AIMED_KD[size])

    def together(self) -> Iterator[Line]:
        """Time students side by side, of one teacher and the same images."""
        world = World(self.settings, self.folder)
        for count in COUNTS:
            if self._late(RESERVED) and count != TOGETHER:
                yield Line(f"{count} students side by side", "no time left")
                continue
            rate = self._rate(Several(world, distillations(count)), count)
            times = rate["median"] / self.reference if self.reference else None
            aimed = AIMED_TOGETHER if count == TOGETHER else None
            yield Line(
                f"{count} students side by side",
                f"{rate['median']:,.0f} student images/s" + (f", {times:.1f} times the reference's" if times else ""),
                f"at least {aimed:g} times" if aimed else "",
                None if aimed is None or times is None else times >= aimed,
                rate,
            )

    def _rate(self, several: Several, count: int) -> dict[str, Any]:
        """Return the images a second that so many students side by side train on, each student's counted."""
        settings = self.settings
        several.run(1 + several.warm_up)
        timing = in_turns(
            {"together": several.run}, settings.steps, settings.batch_size, settings.repeats, several.device, log.info
        )["together"]
        return spread([count / value for value in timing.wall])

    def methods(self) -> Iterator[Line]:
        """Time every method against the reference loop."""
        slower, untimed, figures = [], [], {}
        world = World(self.plain, self.folder)
        for entry in self.settings.methods:
            name = name_of(entry)
            if self._late(RESERVED):
                untimed.append(name)
                continue
            try:
                found = compare(world, entry, log.info, by_part=False)
            except UserError as error:
                figures[name] = {"failed": str(error)}
                yield Line(f"{name} at batch {world.settings.batch_size}", f"does not fit these networks: {error}")
                continue
            figures[name] = found
            line = _ratio_line(f"{name} at batch {world.settings.batch_size}", found, AIMED_METHOD)
            if not line.reached:
                slower.append(name)
            yield line
        timed = len([found for found in figures.values() if "failed" not in found])
        missing = f", no time for {', '.join(untimed)}" if untimed else ""
        yield Line(
            "every method",
            f"{timed - len(slower)} of {timed} methods reach it{missing}",
            f"each at least {AIMED_METHOD:g} times",
            None if untimed and not slower else timed > 0 and not slower,
        )

    # --- the field's table ----------------------------------------------------------------------

    def hours(self) -> Iterator[Line]:
        """Project the field's table from measured steps: of each pair, all methods side by side in one graph."""
        total, counted, untimed = 0.0, 0, []
        for teacher, student in self.pairs:
            at = self.plain.model_copy(update={"teachers": [teacher], "student": student, "weights": []})
            if self._late():
                untimed.append(at.pair)
                continue
            several = Several(World(at, self.folder), list(FIELD))
            methods = len(several.engines)
            rate = self._rate(several, methods)
            engine = next(iter(several.engines.values()))
            reading = seconds(engine.evaluate, several.device) / len(engine.bench.data.validation)
            trained = methods * (IMAGES / rate["median"] + TEST_IMAGES * reading)
            hours = SEEDS * EPOCHS * trained / 3600
            total, counted = total + hours, counted + 1
            without = f", without {', '.join(several.left_out)}, which do not fit it" if several.left_out else ""
            yield Line(
                f"{at.pair}: {methods} methods, {SEEDS} seeds",
                f"{hours:.1f} h at {rate['median']:,.0f} student images/s{without}",
                figures={"hours": hours, "rate": rate, "left_out": several.left_out, "evaluation": reading},
            )
        estimated = total * len(self.pairs) / counted if counted else float("nan")
        missing = f", {len(untimed)} of them by the mean of the others" if untimed else ""
        yield Line(
            f"the field's table: {len(self.pairs)} pairs × {len(FIELD)} methods × {SEEDS} seeds × {EPOCHS} epochs",
            f"{estimated:.0f} h on one such device{missing}",
            f"at most {AIMED_HOURS:g} h",
            estimated <= AIMED_HOURS,
        )


States = dict[str, dict[str, torch.Tensor]]


def _same(one: States, other: States) -> bool:
    return one.keys() == other.keys() and all(
        one[name].keys() == other[name].keys()
        and all(torch.equal(one[name][key], other[name][key]) for key in one[name])
        for name in one
    )


def _equal_line(goal: str, different: Sequence[str]) -> Line:
    found = f"other weights with {', '.join(different)}" if different else "the same weights"
    return Line(goal, found, "the same", not different)


def _ratio_line(goal: str, found: dict[str, Any], aimed: float | None) -> Line:
    ratio = found["ratio"]["wall"]["median"]
    rates = [found[loop]["images_per_second"]["wall"]["median"] for loop in ("engine", "reference")]
    replayed = "" if found["replayed"] else ", not captured"
    return Line(
        goal,
        f"{ratio:.1f} times the reference: {rates[0]:,.0f} and {rates[1]:,.0f} images/s{replayed}",
        f"at least {aimed:g} times" if aimed else "",
        None if aimed is None else ratio >= aimed,
        {key: found[key] for key in ("ratio", "modes", "replayed")},
    )


def write(goals: Goals, path: Path) -> None:
    """Write all that is known so far, whole or not at all."""
    device = training_device()
    write_json(
        path,
        {
            "settings": goals.settings.model_dump(mode="json"),
            "hardware": hardware(device, "measured"),
            "versions": versions(),
            "git": git_state(),
            "lines": [asdict(line) for line in goals.lines],
        },
    )


def show(line: Line) -> str:
    """Return a line as people read it."""
    verdict = {True: "reached", False: "MISSED", None: ""}[line.reached]
    aim = f" (aimed at: {line.aimed})" if line.aimed else ""
    return f"{verdict:8}{line.goal}: {line.found}{aim}"


def run(settings: Settings, folder: Path, path: Path, minutes: float, told: Callable[[str], None]) -> Goals:
    """Measure the goals in so many minutes, write them one by one and tell each; begin nothing that would end late."""
    goals = Goals(settings, folder, time.monotonic() + 60 * minutes)
    for line in goals.measure():
        write(goals, path)
        told(show(line))
    return goals

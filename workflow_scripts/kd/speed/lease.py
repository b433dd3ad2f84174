"""An experiment trained piece by piece, on a machine that is lent for some minutes at a time.

Jobs run in the order in which one needs another, those of `co_train` side by side, in one process and without
Snakemake. A folder holds everything; the next lease goes on from the last finished epoch.
"""

import csv
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from kd.analysis.published import published_beside
from kd.engine.checkpoint import load_state
from kd.engine.history import Row
from kd.engine.jobs.files import Files
from kd.engine.jobs.prestage import pretrain
from kd.engine.jobs.student import train_student
from kd.engine.jobs.students import train_students
from kd.engine.jobs.tune import tune
from kd.engine.resolve import build_method, stages_of_job
from kd.schema.cards import card
from kd.schema.config import Experiment
from kd.study.experiment import check_experiment
from kd.study.job_plan import JobPlan, all_before
from kd.study.job_settings import JobSettings, parse_settings
from kd.study.jobs import Jobs
from kd.study.made import MANIFEST, RESUME
from kd.study.plan import Plan
from kd.study.together import together
from kd.tools.errors import UserError

log = logging.getLogger(__name__)

LEAVES = {
    "prepare_data": MANIFEST,
    "tune": "choice.json",
    "train_teacher": "run.json",
    "pretrain_method": "run.json",
    "train_student": "run.json",
}
"""By rule, the last file that a job writes, by which a later lease knows that it is done."""
SPARE = 1.2
"""An epoch is begun only where the time is left for one so many times as long as the last."""


class LeaseEnds(KeyboardInterrupt):
    """The time is up. It passes, as an interruption from the keyboard does, whoever handles errors on its way."""


class Watch:
    """Ends a training between two epochs if the next one would not be done in time."""

    def __init__(self, ends: float, lengths: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        """Watch trainings of so many epochs each, until the clock says `ends`."""
        self._ends, self._lengths, self._clock = ends, lengths, clock
        self._began = clock()
        self._told: Counter[int] = Counter()

    def begun_with(self, done: Sequence[int]) -> "Watch":
        """Count epochs that trainings have behind them, and return the watch."""
        for epochs in done:
            self._told.update(range(1, epochs + 1))
        return self

    def __call__(self, row: Row) -> None:
        """Take note of an epoch that a training has finished and saved."""
        epoch = row["epoch"]
        self._told[epoch] += 1
        if self._told[epoch] < self._due(epoch):
            return
        now = self._clock()
        took, self._began = now - self._began, now
        if now + SPARE * took > self._ends and epoch < max(self._lengths):
            raise LeaseEnds

    def _due(self, epoch: int) -> int:
        """Return how many tell of an epoch: those that are long enough, less those that told nothing of the last one.

        They have failed: no training begins an epoch before all others are where it is.
        """
        due, before = (sum(length >= one for length in self._lengths) for one in (epoch, epoch - 1))
        return due if epoch == 1 else due - (before - self._told[epoch - 1])


@contextmanager
def at_latest(ends: float) -> Iterator[None]:
    """Raise LeaseEnds inside, in the middle of an epoch if need be, once the clock says `ends`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise LeaseEnds

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(1e-3, ends - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Lease:
    """An experiment and when the machine goes back; its paths are relative to the folder that holds everything."""

    experiment: Experiment
    ends: float

    def __post_init__(self) -> None:
        self.plan = Plan(self.experiment)
        self.jobs = Jobs(self.plan)

    def run(self) -> bool:
        """Train as far as the time goes and return whether everything is done."""
        try:
            with at_latest(self.ends):
                for bundle in self.bundles():
                    for job in dict.fromkeys(one for part in bundle for one in all_before(part)):
                        self._alone(job)
                    if not all(map(done, bundle)):
                        self._students(bundle)
        except LeaseEnds:
            return False
        return True

    def bundles(self) -> list[list[JobPlan]]:
        """Return the students' trainings, those side by side in one list."""
        shared = together(self.experiment)
        found: dict[tuple[Any, ...], list[JobPlan]] = {}
        for run in self.plan.runs:
            beside = next((one.runs(run) for one in shared if one.holds(run)), [run])
            found.setdefault(tuple(beside), [self.jobs.of("train_student", one) for one in beside])
        return list(found.values())

    def _alone(self, job: JobPlan) -> None:
        if job.rule not in LEAVES or done(job):
            return
        log.info("%s: %s", job.rule, job.folder)
        if job.rule == "prepare_data":
            self._pack(job)
            return
        settings, files = parse_settings(job.settings), files_of(job)
        if job.rule == "tune":
            tune(settings, files)
            return
        train: Callable[..., Any] = pretrain if job.rule == "pretrain_method" else train_student
        train(settings, files, Watch(self.ends, [epochs_of(settings)]))

    def _pack(self, job: JobPlan) -> None:
        from kd.data.packing import pack  # not needed where images were packed beforehand

        name = next(one for one in self.experiment.datasets if self.jobs.of("prepare_data", one).folder == job.folder)
        pack(self.experiment.datasets[name], Path(job.folder), workers=1, progress=False)

    def _students(self, bundle: Sequence[JobPlan]) -> None:
        settings = [parse_settings(job.settings) for job in bundle]
        watch = Watch(self.ends, [epochs_of(one) for one in settings])
        watch.begun_with([len(rows_of(job)) for job in bundle])
        for job, outcome in zip(bundle, train_students(settings, list(map(files_of, bundle)), watch), strict=True):
            if isinstance(outcome, UserError):
                log.error("%s: %s", job.folder, outcome)

    def table(self) -> str:
        """Return what every student has reached on the test images, beside published numbers."""
        lines = [["method", "epochs", "top-1 last", "top-1 best", "published (last)", "published (best)"]]
        for run in self.plan.runs:
            rows = rows_of(self.jobs.of("train_student", run))
            reached = [float(row["test_top1"]) for row in rows]
            known = self._published(run.method, run.dataset, run.teachers, run.student)
            ours = [f"{reached[-1]:.2f}", f"{max(reached):.2f}"] if reached else ["–", "–"]
            lines.append([run.method, str(len(rows)), *ours, known.get("last", "–"), known.get("best", "–")])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
        return "\n".join("  ".join(cells).rstrip() for cells in padded)

    def _published(self, method: str, dataset: str, teachers: Sequence[str], student: str) -> Mapping[str, str]:
        parts = self.plan.variants[method].parts
        if len(parts) != 1:
            return {}
        entries = card(parts[0][0]).published
        settings = self.experiment.datasets[dataset].model_dump()
        found = published_beside(entries, settings, teachers, student)
        return {epoch: f"{entry.top1:.2f}" for epoch, entry in found.items()}


def pair_of(content: Mapping[str, Any], teacher: str, student: str, without: Sequence[str] = ()) -> Experiment:
    """Return an experiment on one pair in place of its own, without some of its methods, that reads the test images."""
    names = [one if isinstance(one, str) else str(one.get("name", one.get("method"))) for one in content["methods"]]
    unknown = [name for name in without if name not in names]
    if unknown:
        raise UserError(f"--without {unknown[0]}: no such method, allowed are {', '.join(names)}")
    kept = [one for one, name in zip(content["methods"], names, strict=True) if name not in without]
    beside = [name for name in content.get("co_train", []) if name not in without]
    pairs = [{"teachers": [teacher], "student": student}]
    recipe = {**content.get("recipe", {}), "track_test": True}
    return check_experiment({**content, "pairs": pairs, "methods": kept, "co_train": beside, "recipe": recipe})


def done(job: JobPlan) -> bool:
    """Whether a job has written its last file."""
    return (Path(job.folder) / LEAVES[job.rule]).is_file()


def files_of(job: JobPlan) -> Files:
    """Return where a job reads and writes."""
    listed = {name: [Path(path) for path in given] for name, given in job.inputs.items() if not isinstance(given, str)}
    return Files(
        data=Path(str(job.data)),
        folder=Path(job.folder),
        teachers=listed.get("teachers", []),
        outputs=listed.get("outputs", []),
        pretrained=next(iter(listed.get("pretrained", [])), None),
        tuned=listed.get("tuned", []),
        code=job.code,
    )


def epochs_of(job: JobSettings) -> int:
    """Return how many epochs a training has, those of its first stages too."""
    stages = stages_of_job(job, build_method(job.method, len(job.teachers)))
    return sum(int(stage.recipe.get("epochs", job.recipe.epochs)) for stage in stages)


def rows_of(job: JobPlan) -> Sequence[Mapping[str, Any]]:
    """Return the epochs that a training has behind it, finished or not."""
    folder = Path(job.folder)
    if done(job):
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if not (folder / RESUME).is_file():
        return []
    rows: Sequence[Mapping[str, Any]] = load_state(folder / RESUME)["result"]["rows"]
    return rows

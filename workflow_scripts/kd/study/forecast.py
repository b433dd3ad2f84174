"""What the trainings ahead cost in operations and seconds, as far as it is known before they ran.

Three things are known of a training, each better than the one before: what the check made of its rehearsed step and of
a short probe of its networks, how fast rule tune found those to run, and how long finished trainings of the same
networks really took, which stands in their run.json.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kd.study.checks import cost_key
from kd.study.job_plan import JobPlan
from kd.study.jobs.images import data_folder
from kd.study.jobs.making import Jobs
from kd.study.made import read_record
from kd.study.titles import CHAIN_HALVES, TRAINED

CHECKED = "checked.json"
USES = ("frozen", "trained")
START_SECONDS = 5.0
"""Of a job beside its work: starting Python and loading torch."""
START = "start"
"""Among the seconds that jobs of a rule took in this start: of those beside their work."""
TUNE_SECONDS = 40.0
"""Of the measurement of a network."""


@dataclass
class Sums:
    """Of finished trainings: what they were thought to take, and took."""

    thought: float = 0.0
    took: float = 0.0
    count: int = 0

    def add(self, thought: float, took: float) -> None:
        """Count a training."""
        self.thought, self.took, self.count = self.thought + thought, self.took + took, self.count + 1


@dataclass(frozen=True)
class Told:
    """What of a training's settings its cost depends on."""

    cost: str
    """By which the check wrote it down."""
    networks: tuple[str, ...]
    """Rule and architectures."""
    budget: Mapping[str, Any] | None
    """What its settings say of the operations that it trains for, in place of the recipe's epochs."""
    used_as_it_is: bool


@dataclass
class Known:
    """What the check wrote of costs, and rule tune of networks."""

    networks: list[dict[str, Any]] = field(default_factory=list)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float | None = None
    """That the check took."""
    tuned: int = 0
    """Networks whose seconds are those of rule tune."""


class Forecast:
    """Seconds and operations of jobs; None where nobody knows."""

    def __init__(self, jobs: Jobs, cpu: str | None = None) -> None:
        self.jobs, self.cpu = jobs, cpu
        """`cpu` names this machine's, if trainings run on it: what another took is no measure then."""
        self._told: dict[JobPlan, Told] = {}
        self._finished: dict[str, tuple[JobPlan, float]] = {}
        self._walls: dict[str, Sums] = {}
        self._as_written = as_written(jobs)
        self.read()

    def read(self) -> None:
        """Read what check and measurements left, as they do while the workflow runs."""
        self.known = self._known()
        self._sums: dict[tuple[str, ...], Sums] | None = None

    def _known(self) -> Known:
        content = read_record(Path(self.jobs.plan.folder, CHECKED)) or {}
        costs = content.get("costs")
        if not isinstance(costs, dict):
            return Known()
        known = Known(costs["networks"], costs["trainings"], content.get("seconds"))
        for network in known.networks:
            if seconds := self._tuned(network["network"]):
                network["seconds"] = seconds
                known.tuned += 1
        return known

    def _tuned(self, key: list[str]) -> dict[str, float] | None:
        """Return the seconds of an image by use as rule tune measured them."""
        plan, arch = self.jobs.plan, json.loads(key[-1])["arch"]
        of_images = [name for name in plan.experiment.datasets if data_folder(plan, name) == key[0]]
        for dataset in of_images:
            for name in plan.built_as:
                folder = Path(plan.folder, dataset, "tuned", name)
                if plan.built(name).arch == arch and (folder / "measured.json").is_file():
                    return _seconds_measured(folder)
        return None

    # --- one training -------------------------------------------------------------------------------

    def flops(self, job: JobPlan) -> float | None:
        """Return the operations of a training, that of its teachers not counted."""
        if job.parts:
            return _sum(self.flops(part) for part in job.parts)
        return self._reckoned(job, "flops")

    def seconds(self, job: JobPlan) -> float | None:
        """Return the seconds of a job, as they are thought of now."""
        if job.parts:
            return _sum(self.seconds(part) for part in job.parts)
        if job.rule not in TRAINED:
            own = TUNE_SECONDS if job.rule == "tune" else 0.0
            return self._wall(job.rule) if job.rule in self._walls else self._start + own
        thought = self._thought(job)
        if thought is None:
            return None
        sums = self._taken()
        found = sums.get(self._of(job).networks) or sums.get(())
        if found is None and not self._in_seconds:
            return None
        factor = found.took / found.thought if found is not None and found.thought else 1.0
        return thought * factor + self._start

    @property
    def _in_seconds(self) -> bool:
        """Whether all networks are timed; else operations stand for seconds, in proportion."""
        return all(set(network["seconds"]) >= set(USES) for network in self.known.networks)

    def _thought(self, job: JobPlan) -> float | None:
        return self._reckoned(job, "seconds" if self._in_seconds else "flops")

    def _reckoned(self, job: JobPlan, what: str) -> float | None:
        told = self._of(job)
        own = self._of_the_recipe(told, what)
        if told.budget is None:
            return own
        flops, epochs = self._budget(job, told.budget), self._of_the_recipe(told, "flops")
        if what == "flops" or not flops:
            return flops
        return flops * own / epochs if own and epochs else None

    def _budget(self, job: JobPlan, budget: Mapping[str, Any]) -> float | None:
        """Return the operations that a training is given: of the most expensive row, less what was made for it.

        Of the jobs that it waits for each row has those that the settings count; its teachers' trainings are none.
        """
        waits = {f"{one.folder}/run.json": one for one in job.after}
        spent = [self._with_halves(waits[file]) for file in job.inputs["budget"]]
        if None in spent:
            return None
        left = iter([one or 0.0 for one in spent])
        rows = [sum(islice(left, count)) for count in budget["rows"]]
        return max(0.0, max(rows) - sum(left))

    def _with_halves(self, job: JobPlan) -> float | None:
        """Return the operations of what a record counts: of a chain's all half-stages, of what trains nothing none."""
        if job.rule in TRAINED:
            return self._reckoned(job, "flops")
        return _sum(self._reckoned(one, "flops") for one in job.after if one.rule in CHAIN_HALVES)

    def _of_the_recipe(self, told: "Told", what: str) -> float | None:
        """Return what a training of the recipe's epochs takes."""
        cost = self.known.trainings.get(told.cost)
        if cost is None:
            return 0.0 if told.used_as_it_is else None
        total = cost["beside"] if what == "flops" else 0.0
        for place, frozen, trained in cost["passes"]:
            pace = self.known.networks[place][what]
            if (frozen and "frozen" not in pace) or (trained and "trained" not in pace):
                return None
            total += frozen * pace.get("frozen", 0.0) + trained * pace.get("trained", 0.0)
        for place, images in cost["evaluated"] if what == "seconds" else ():
            total += images * self.known.networks[place][what].get("frozen", 0.0)
        return float(total)

    def _of(self, job: JobPlan) -> "Told":
        """Return what of a training's settings its cost depends on; a schedule asks it of all of them."""
        if job not in self._told:
            self._told[job] = _told(job, self._as_written.get(job.folder, job))
        return self._told[job]

    # --- what finished ones took --------------------------------------------------------------------

    def finished(self, job: JobPlan, wall: float | None = None) -> None:
        """Take note of a finished job, and of the seconds that it took from start to end."""
        for part in job.parts or [job]:
            took = self._seconds_of(part) if part.rule in TRAINED else None
            if took is not None:
                self._finished[part.folder] = (part, took)
        if job.rule in ("check_pairs", "tune"):
            self.read()
        if wall is not None:
            self._walls.setdefault(job.rule, Sums()).add(1, wall)
            own = self._own_seconds(job)
            if own is not None:
                self._walls.setdefault(START, Sums()).add(1, max(0.0, wall - own))
        self._sums = None

    def _own_seconds(self, job: JobPlan) -> float | None:
        """Return the seconds that a job says it worked, where it says so: what is left of them is its start."""
        if job.rule == "check_pairs":
            return self.known.seconds
        found = [self._finished[part.folder][1] for part in job.parts or [job] if part.folder in self._finished]
        return sum(found) if found else None

    def _seconds_of(self, job: JobPlan) -> float | None:
        run = read_record(Path(job.folder, "run.json")) or {}
        seconds, hardware = run.get("seconds"), run.get("hardware")
        if not isinstance(seconds, dict) or not isinstance(hardware, dict) or run.get("status") != "ok":
            return None
        elsewhere = self.cpu is not None and hardware.get("device") == "cpu" and hardware.get("cpu") != self.cpu
        took = seconds.get("train")
        return float(took) if isinstance(took, int | float) and not elsewhere else None

    def _taken(self) -> dict[tuple[str, ...], Sums]:
        """Return by networks what finished trainings were thought to take and took; () is all of them."""
        if self._sums is None:
            self._sums = {}
            for job, took in self._finished.values():
                thought = self._thought(job)
                for key in (self._of(job).networks, ()) if thought else ():
                    self._sums.setdefault(key, Sums()).add(thought or 0.0, took)
        return self._sums

    def _wall(self, rule: str) -> float:
        return self._walls[rule].took / self._walls[rule].thought

    @property
    def _start(self) -> float:
        return self._wall(START) if START in self._walls else START_SECONDS

    # --- where it is from ---------------------------------------------------------------------------

    def source(self, ahead: Iterable[JobPlan]) -> str:
        """Return what an estimate of trainings rests on, in words."""
        sums = self._taken()
        trainings = [part for job in ahead for part in job.parts or [job] if part.rule in TRAINED]
        of_same = [self._of(part).networks in sums for part in trainings]
        count = sums[()].count if () in sums else 0
        found = [f"the times of {count} finished training{'s' if count != 1 else ''}"] if any(of_same) or count else []
        if not all(of_same):
            measured = self.known.tuned and self.known.tuned == len(self.known.networks)
            first = "the measurement of every network" if measured else "a short probe of every network in the check"
            found = [first, *found] if self._in_seconds else ["the operations of each", *found]
        return " and ".join(found)


def as_written(jobs: Jobs) -> dict[str, JobPlan]:
    """Return by the folder of each trial of a search the training of its method as it is written.

    That is the one that the check goes through: what a trial draws changes its cost little, if at all.
    """
    plan, first = jobs.plan, jobs.plan.experiment.seeds[0]
    return {
        plan.place(trial): jobs.training(replace(search, method=plan.variants[search.method].searched, seed=first))
        for search in plan.searches.runs
        for trial in plan.searches.trials(search)
    }


def _told(job: JobPlan, checked: JobPlan) -> Told:
    """Return what the cost of a job depends on; `checked` is the job of equal cost that the check goes through."""
    settings = json.loads(checked.settings)
    student = settings["student"]
    models = [student, *settings["teachers"]]
    return Told(
        cost=cost_key(settings),
        networks=(job.rule, *(model["arch"] for model in models if model)),
        budget=settings.get("budget"),
        used_as_it_is=student is not None and not student["train"],
    )


def _seconds_measured(folder: Path) -> dict[str, float] | None:
    measured, choice = read_record(folder / "measured.json"), read_record(folder / "choice.json")
    if measured is None or choice is None:
        return None
    try:
        found = {}
        for use in USES:
            rows = [
                row for row in measured["measured"][use] if all(row[key] == choice[use][key] for key in choice[use])
            ]
            found[use] = float(rows[0]["seconds_a_batch"]) / measured["batch_size"]
        return found
    except (KeyError, IndexError, TypeError):
        return None


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(filter(None, found))

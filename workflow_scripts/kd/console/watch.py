"""What a person reads while a workflow runs: what is ahead, why, how long it takes, and what went wrong."""

import heapq
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kd.study.believed import TRAININGS
from kd.study.forecast import Forecast
from kd.study.job_plan import JobPlan
from kd.study.reasons import Reason, told_again
from kd.study.titles import CHAIN_HALVES, TRAINED, epochs_of, in_epochs

LOOK_AGAIN = 10.0
"""Seconds for which an estimate is only counted down: thousands of jobs end faster than a schedule is made."""
MANY = 500
"""Jobs ahead from which that is so."""
SECOND, MINUTE, HOUR, DAY = 1, 60, 3600, 86_400

KINDS = {
    "train_teacher": ("teacher", "teachers"),
    "pretrain_method": ("pre-stage", "pre-stages"),
    "train_student": ("student", "students"),
    "train_trial": ("trial of a search", "trials of searches"),
    **dict.fromkeys(CHAIN_HALVES, ("half-stage of ASIB", "half-stages of ASIB")),
    "continual_run": ("class-incremental run", "class-incremental runs"),
}


@dataclass(frozen=True)
class Ahead:
    """A job that is to run."""

    plan: JobPlan | None
    """None for one that the experiment knows nothing of."""
    after: Collection[int]
    """The numbers of the jobs that it waits for."""


@dataclass(frozen=True)
class Room:
    """How much can run at once."""

    cores: int | None
    """None on a cluster, where `jobs` run at once."""
    jobs: int | None = None
    """`sys.maxsize` is how Snakemake says without bound."""
    gpus: int | None = None

    def __str__(self) -> str:
        if self.cores is None:
            bound = self.jobs if self.jobs and self.jobs < sys.maxsize else None
            return (
                f"{bound} job{'s' if bound != 1 else ''} at a time" if bound else "as many jobs at a time as there are"
            )
        devices = f" and {self.gpus} GPU places" if self.gpus else ""
        return f"{self.cores} core{'s' if self.cores != 1 else ''}{devices}"


@dataclass
class Watch:
    """Follows the jobs of a start by their numbers, and says what is left."""

    forecast: Forecast
    room: Room
    quantity: Callable[[float, str], str]
    """How a number with a unit is written."""
    ahead: dict[int, Ahead] = field(default_factory=dict)
    reasons: dict[int, Reason] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    failed: dict[int, list[str]] = field(default_factory=dict)
    """Numbers of the jobs that failed in this start, with their logs."""

    def __post_init__(self) -> None:
        self._left = dict(self.ahead)
        self._running: dict[int, float] = {}
        self._told: tuple[float, float | None] | None = None
        self._news = False
        self.foretold = ""

    # --- what happens -------------------------------------------------------------------------------

    def started(self, numbers: Iterable[int]) -> None:
        """Take note of jobs that begin, some of them once more."""
        for number in numbers:
            self._running[number] = self.clock()
            self.failed.pop(number, None)

    def finished(self, number: int) -> None:
        """Take note of a job that ended well."""
        one, began = self._left.pop(number, None), self._running.pop(number, None)
        if one is not None and one.plan is not None:
            # on a cluster a job has waited in a queue as well
            own = None if began is None or self.room.cores is None else self.clock() - began
            self.forecast.finished(one.plan, own)
            if one.plan.rule in ("check_pairs", "tune"):
                self._told, self._news = None, True

    def fails(self, number: int, logs: Sequence[str]) -> None:
        """Take note of a job that ended otherwise; another attempt may follow, and until then nothing comes of it."""
        self._running.pop(number, None)
        self.failed[number] = list(logs)

    # --- what is said -------------------------------------------------------------------------------

    def first_words(self) -> list[str]:
        """Return what is ahead, and what is made again for which reason."""
        plans = [(one.plan, self.reasons[number]) for number, one in self.ahead.items() if one.plan is not None]
        return [*told_again(plans), self.plan_line()]

    def plan_line(self) -> str:
        """Return one line: what is to be trained, for how many epochs, at what cost."""
        trainings = self._trainings()
        jobs = f"{len(self.ahead)} job{'s' if len(self.ahead) != 1 else ''} on {self.room}"
        if not trainings:
            return f"Ahead: {jobs}; nothing is to be trained."
        counts: dict[tuple[str, str], int] = {}
        for job in trainings:
            counts[KINDS[job.rule]] = counts.get(KINDS[job.rule], 0) + 1
        kinds = ", ".join(f"{count:,} {kind[count != 1]}" for kind, count in counts.items())
        epochs = in_epochs(sum(epochs_of(job) or 0 for job in trainings))
        cost = self.cost_line() or "operations and time are told once the check knows them"
        return f"Ahead: {jobs}; to train: {kinds}, {epochs} in all; {cost}."

    def cost_line(self) -> str:
        """Return operations and time of what is left, and where the estimate is from; nothing if nobody knows."""
        trainings = self._trainings()
        flops = [self.forecast.flops(job) for job in trainings]
        if not trainings or None in flops:
            return ""
        left = self.time_left()
        self.foretold = self.forecast.source(trainings)
        operations = self.quantity(sum(one for one in flops if one is not None), "FLOPs")
        when = f"about {spoken(left)} (an estimate from {self.foretold})" if left is not None else NOT_YET
        return f"{operations} of training, {when}"

    def better_estimate(self) -> str:
        """Return the cost line once the check, or the last measurement, gave it something else to rest on."""
        trainings = self._trainings() if self._news else []
        self._news = False
        if not trainings or any(self.forecast.flops(job) is None for job in trainings):
            return ""
        before, _, _ = self.foretold.partition(" and the times of")
        now, _, _ = self.forecast.source(trainings).partition(" and the times of")
        return f"Ahead: {self.cost_line()}." if now != before and not now.startswith("the times of") else ""

    def progress(self) -> str:
        """Return how much time is left, as a line that counts jobs goes on; nothing where nobody knows."""
        left = self.time_left()
        return f", about {spoken(left)} left" if left is not None and self._left else ""

    def _trainings(self) -> list[JobPlan]:
        found = [one.plan for one in self._left.values() if one.plan is not None]
        parts = [part for job in found for part in job.parts or [job]]
        return [job for job in parts if job.rule in TRAINED]

    # --- time ---------------------------------------------------------------------------------------

    def time_left(self) -> float | None:
        """Return the seconds until all is done; None while the cost of a training is not known."""
        now = self.clock()
        if self._told is not None and len(self._left) > MANY and now - self._told[0] < LOOK_AGAIN:
            then, left = self._told
            return None if left is None else max(0.0, left - (now - then))
        left = self._scheduled(now)
        self._told = (now, left)
        return left

    def _scheduled(self, now: float) -> float | None:
        """Return when the last job ends if each begins as soon as it can, in the order of their numbers."""
        seconds: dict[int, float] = {}
        hopeless = self._hopeless()
        left = {number: one for number, one in self._left.items() if number not in hopeless}
        for number, one in left.items():
            took = None if one.plan is None else self.forecast.seconds(one.plan)
            if took is None and one.plan is not None:
                return None
            # one that takes longer than it was thought to is nearly done
            began = self._running.get(number)
            seconds[number] = (took or 0.0) if began is None else max(1.0, (took or 0.0) - (now - began))
        return _last_end(left, seconds, self._needs, self.room, self._running)

    def _hopeless(self) -> set[int]:
        """Return the jobs that failed and all that wait for them."""
        found = set(self.failed)
        fresh = set(found)
        while fresh:
            fresh = {number for number, one in self._left.items() if fresh & {*one.after}} - found
            found |= fresh
        return found

    def _needs(self, one: Ahead) -> tuple[int, int]:
        """Return the cores and GPUs that a job takes."""
        experiment = self.forecast.jobs.plan.experiment
        works = one.plan is not None and (one.plan.rule in TRAININGS or one.plan.rule.startswith("evaluate"))
        cores = experiment.threads if works else 1
        return min(cores, self.room.cores or cores), experiment.gpus if works else 0


NOT_YET = "time is told once some of it is done"


def _last_end(
    ahead: Mapping[int, Ahead],
    seconds: Mapping[int, float],
    needs: Callable[[Ahead], tuple[int, int]],
    room: Room,
    running: Collection[int],
) -> float:
    """Return when the last of some jobs ends, as many at once as there is room for."""
    waits = {number: {other for other in one.after if other in ahead} for number, one in ahead.items()}
    followers: dict[int, list[int]] = {}
    for number, others in waits.items():
        for other in others:
            followers.setdefault(other, []).append(number)
    cores = float("inf") if room.cores is None else room.cores
    jobs, gpus = room.jobs or float("inf"), float("inf") if room.gpus is None else room.gpus
    # those under way have their room already
    ready = sorted(
        (number for number in ahead if not waits[number]), key=lambda number: (number not in running, number)
    )
    taking = {number: needs(one) for number, one in ahead.items()}
    ends: list[tuple[float, int]] = []
    now, taken, devices = 0.0, 0, 0
    while ready or ends:
        later = []
        for place, number in enumerate(ready):
            if ends and (taken >= cores or len(ends) >= jobs):  # of thousands that wait nobody need be asked
                later += ready[place:]
                break
            core, gpu = taking[number]
            if not ends or (taken + core <= cores and devices + gpu <= gpus and len(ends) < jobs):
                heapq.heappush(ends, (now + seconds[number], number))
                taken, devices = taken + core, devices + gpu
            else:
                later.append(number)
        ready = later
        now, number = heapq.heappop(ends)
        core, gpu = taking[number]
        taken, devices = taken - core, devices - gpu
        for follower in followers.get(number, ()):
            waits[follower].discard(number)
            if not waits[follower]:
                ready.append(follower)
    return now


def spoken(seconds: float) -> str:
    """Return a time as one says it: '40 s', '14 min', '5 h 20 min', '3 days 4 h'."""
    if seconds < 90 * SECOND:
        return f"{max(10, round(seconds / 10) * 10)} s"
    if seconds < 90 * MINUTE:
        return f"{round(seconds / MINUTE)} min"
    if seconds < 2 * DAY:
        hours, minutes = divmod(round(seconds / (10 * MINUTE)) * 10, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / HOUR), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"

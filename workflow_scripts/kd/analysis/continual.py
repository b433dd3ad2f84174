"""From accuracy matrices to what is reported of continual learning, without torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kd.analysis.records import as_object, check_matrix
from kd.analysis.runs import grouped
from kd.analysis.statistics import PairedDifference, Summary, over_strata, paired_difference, summarise
from kd.study.made import exchanged, is_as_asked, reason_of
from kd.tools.errors import UserError
from kd.tools.files import read_json

Matrix = Sequence[Sequence[float | None]]


def seen_accuracies(matrix: Matrix, images: Sequence[int]) -> list[float]:
    """Return the accuracy over all images of seen classes after each task, in percent.

    Row t, column j of `matrix` is the accuracy after task t on the `images[j]` images of task j, for j up to t.
    """
    found = []
    for number, row in enumerate(matrix, start=1):
        known = np.array(row[:number], dtype=np.float64)
        found.append(float(np.average(known, weights=images[:number])))
    return found


def average_incremental_accuracy(matrix: Matrix, images: Sequence[int]) -> float:
    """Return the mean over tasks of the accuracy over seen classes after the task (Rebuffi et al. 2017)."""
    return float(np.mean(seen_accuracies(matrix, images)))


def forgetting(matrix: Matrix) -> float:
    """Return how far the tasks but the last fell, at the end, from their best accuracy before (Chaudhry et al. 2018).

    The mean over j < T of max over t from j to T - 1 of A[t,j] minus A[T,j]; negative where later tasks helped.
    """
    last = len(matrix) - 1
    table = np.array([[np.nan if value is None else value for value in row] for row in matrix], dtype=np.float64)
    return float(np.mean([np.nanmax(table[j:last, j]) - table[last, j] for j in range(last)]))


@dataclass(frozen=True)
class CourseMeasure:
    """A number of one run, from its accuracy matrix and the numbers of images of each task."""

    heading: str
    found: Callable[[Matrix, Sequence[int]], float]
    answers: Literal["class", "task"] = "class"
    """Whether any seen class may be answered, or only those of the image's own task."""
    better: Literal["up", "down"] = "up"


MEASURES = {
    "average": CourseMeasure("Average incremental", average_incremental_accuracy),
    "final": CourseMeasure("Final", lambda matrix, images: seen_accuracies(matrix, images)[-1]),
    "forgetting": CourseMeasure("Forgetting", lambda matrix, _: forgetting(matrix), better="down"),
    "task_final": CourseMeasure(
        "Final, task known", lambda matrix, images: seen_accuracies(matrix, images)[-1], "task"
    ),
}
"""By their names in continual.csv and .json, in the order of the table."""
COMPARED = "final"
"""The one in which strategies are compared, seed by seed."""


def measures(record: Mapping[str, Any], split: str = "test") -> dict[str, float]:
    """Return the measures of one run from what its evaluation wrote."""
    images = record["images"][split]
    return {name: measure.found(record[split][measure.answers], images) for name, measure in MEASURES.items()}


@dataclass(frozen=True, kw_only=True)
class CourseRun:
    """A class-incremental run: as it was planned, and what its evaluation wrote or why it wrote nothing."""

    dataset: str
    student: str
    strategy: str
    seed: int
    path: str
    made: Mapping[str, Any]
    """What its results must have been made from (kd.study.jobs.reports)."""
    reason: str = ""
    """Empty for a finished run."""
    matrix: Mapping[str, Any] = field(default_factory=dict)
    """The content of matrix.json."""
    measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """Return ok or failed."""
        return "failed" if self.reason else "ok"

    @property
    def seen(self) -> list[float]:
        """Return the accuracy over seen classes after each task."""
        return seen_accuracies(self.matrix["test"]["class"], self.matrix["images"]["test"])

    def content(self) -> dict[str, Any]:
        """Return it as continual.json has it."""
        planned = {name: getattr(self, name) for name in ("dataset", "student", "strategy", "seed", "path", "made")}
        outcome = {"reason": self.reason} if self.reason else {"matrix": self.matrix, "measures": self.measures}
        return {**planned, "status": self.status, **outcome}


def read_runs(runs: Sequence[Mapping[str, Any]]) -> list[CourseRun]:
    """Return the runs with what their evaluations wrote, or with the reason why there is none.

    `runs` holds dataset, student, strategy, seed, path and made of each.
    """
    return [_read(CourseRun(**run)) for run in runs]


def _read(run: CourseRun) -> CourseRun:
    path = Path(run.path) / "matrix.json"
    steps = run.made["steps"]
    if not path.is_file() or not all(map(is_as_asked, steps)) or any(map(exchanged, steps)):
        return replace(run, reason=_reason(run.made))
    try:
        matrix = as_object(path, read_json(path))
        check_matrix(path, matrix)
        return replace(run, matrix=matrix, measures=measures(matrix))
    except UserError as error:
        return replace(run, reason=str(error))


def _reason(made: Mapping[str, Any]) -> str:
    reasons = [reason_of(step) for step in (*made["steps"], *made["before"])]
    return next((reason for reason in reasons if reason is not None), "not finished")


@dataclass(frozen=True, kw_only=True)
class StrategyRecord:
    """What the seeds of one strategy say."""

    dataset: str
    student: str
    strategy: str
    planned: int
    used: int
    measures: Mapping[str, Summary]
    reference: str
    """The first strategy of the data set and student."""
    difference: PairedDifference | None
    """Of the measure that strategies are compared in, to the reference."""
    problems: list[str]
    """Of every run without result, its seed and reason."""
    is_best: bool
    """Whether its mean is the best of those of the most finished seeds, in the measure that is compared."""
    tied_with_best: bool | None
    """Whether its seeds do not place it below the best (kd.analysis.compared); None where that cannot be said."""

    def content(self) -> dict[str, Any]:
        """Return it as continual.json has it: each measure under its own name, where `measures` stands here."""
        content: dict[str, Any] = {}
        for name, value in asdict(self).items():
            content |= value if name == "measures" else {name: value}
        return content


def read_record(content: Mapping[str, Any]) -> StrategyRecord:
    """Return a record as `StrategyRecord.content` wrote it."""
    own = {name: value for name, value in content.items() if name not in MEASURES}
    difference = None if own["difference"] is None else PairedDifference(**own["difference"])
    found = {name: Summary(**content[name]) for name in MEASURES}
    return StrategyRecord(**{**own, "difference": difference}, measures=found)


def summaries(runs: Sequence[CourseRun], confidence: float) -> list[StrategyRecord]:
    """Return one record per data set, student and strategy, in the order of the runs."""
    groups = grouped(runs, lambda run: (run.dataset, run.student, run.strategy))
    first: dict[tuple[str, str], str] = {}
    records = []
    for (dataset, student, strategy), members in groups.items():
        reference = groups[dataset, student, first.setdefault((dataset, student), strategy)]
        finished = [run for run in members if not run.reason]
        own, other = _compared(members), _compared(reference)
        group = [_compared(runs) for (place, by, _), runs in groups.items() if (place, by) == (dataset, student)]
        best = _best(group)
        paired = members is not reference and bool(set(own) & set(other))
        records.append(
            StrategyRecord(
                dataset=dataset,
                student=student,
                strategy=strategy,
                planned=len(members),
                used=len(finished),
                measures={name: summarise([run.measures[name] for run in finished], confidence) for name in MEASURES},
                reference=reference[0].strategy,
                difference=paired_difference(own, other, confidence) if paired else None,
                problems=[f"seed {run.seed}: {run.reason}" for run in members if run.reason],
                is_best=bool(own) and own == best,
                tied_with_best=_is_tied(own, best, sum(map(bool, group)) - 1, confidence),
            )
        )
    return records


def _compared(runs: Sequence[CourseRun]) -> dict[int, float]:
    return {run.seed: run.measures[COMPARED] for run in runs if not run.reason}


def _best(values: Sequence[Mapping[int, float]]) -> Mapping[int, float]:
    """Return the values of the best mean among those of the most seeds, so that no lucky seed wins."""
    most = max(map(len, values))
    return max((one for one in values if len(one) == most), key=lambda one: sum(one.values()))


def _is_tied(own: Mapping[int, float], best: Mapping[int, float], others: int, confidence: float) -> bool | None:
    """Return whether the seeds do not place a strategy below the best, one-sided and corrected for so many others."""
    behind = over_strata([paired_difference(own, best, confidence).values])
    return None if behind is None else own == best or not behind.is_below(confidence, others)


def mean_matrix(runs: Sequence[CourseRun], kind: str = "class", split: str = "test") -> np.ndarray:
    """Return the mean accuracy matrix of finished runs, NaN where a task is not learnt yet."""
    tables = [
        [[np.nan if value is None else value for value in row] for row in run.matrix[split][kind]] for run in runs
    ]
    return np.mean(np.array(tables, dtype=np.float64), axis=0)

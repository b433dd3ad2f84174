"""From accuracy matrices to what is reported of continual learning, without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd.analysis.records import as_object, check_matrix
from kd.analysis.statistics import paired_difference, summarise
from kd.study.made import exchanged, is_as_asked, reason_of
from kd.tools.errors import UserError
from kd.tools.files import read_json

Matrix = Sequence[Sequence[float | None]]
Record = dict[str, Any]

MEASURES = ("average", "final", "forgetting", "task_final")


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


def measures(record: Mapping[str, Any], split: str = "test") -> dict[str, float]:
    """Return the measures of one run from what its evaluation wrote."""
    images, found = record["images"][split], record[split]
    return {
        "average": average_incremental_accuracy(found["class"], images),
        "final": seen_accuracies(found["class"], images)[-1],
        "forgetting": forgetting(found["class"]),
        "task_final": seen_accuracies(found["task"], images)[-1],
    }


def read_runs(runs: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Return the runs with what their evaluations wrote, or with the reason why there is none.

    A run has dataset, student, strategy, seed, path and made (kd.study.jobplan); a finished one gains `matrix` and
    `measures`.
    """
    found = []
    for run in runs:
        path = Path(run["path"]) / "matrix.json"
        steps = run["made"]["steps"]
        if path.is_file() and all(map(is_as_asked, steps)) and not any(map(exchanged, steps)):
            try:
                matrix = as_object(path, read_json(path))
                check_matrix(path, matrix)
                found.append({**run, "status": "ok", "matrix": matrix, "measures": measures(matrix)})
            except UserError as error:
                found.append({**run, "status": "failed", "reason": str(error)})
        else:
            found.append({**run, "status": "failed", "reason": _reason(run["made"])})
    return found


def _reason(made: Mapping[str, Any]) -> str:
    reasons = [reason_of(step) for step in (*made["steps"], *made["before"])]
    return next((reason for reason in reasons if reason is not None), "not finished")


def summaries(runs: Sequence[Record], confidence: float) -> list[Record]:
    """Return one record a data set, student and strategy, in the order of the runs.

    Each measure has mean, sd and interval over seeds; `difference` is the paired difference of final accuracy to the
    first strategy.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for run in runs:
        groups.setdefault((run["dataset"], run["student"], run["strategy"]), []).append(run)
    first: dict[tuple[str, str], str] = {}
    records = []
    for (dataset, student, strategy), members in groups.items():
        reference = groups[dataset, student, first.setdefault((dataset, student), strategy)]
        finished = [run for run in members if run["status"] == "ok"]
        own, other = _finals(members), _finals(reference)
        paired = members is not reference and bool(set(own) & set(other))
        records.append(
            {
                "dataset": dataset,
                "student": student,
                "strategy": strategy,
                "planned": len(members),
                "used": len(finished),
                **{key: summarise([run["measures"][key] for run in finished], confidence) for key in MEASURES},
                "reference": reference[0]["strategy"],
                "difference": paired_difference(own, other, confidence) if paired else None,
                "problems": [f"seed {run['seed']}: {run['reason']}" for run in members if run["status"] != "ok"],
            }
        )
    return records


def _finals(runs: Sequence[Record]) -> dict[int, float]:
    return {run["seed"]: run["measures"]["final"] for run in runs if run["status"] == "ok"}


def mean_matrix(runs: Sequence[Record], kind: str = "class", split: str = "test") -> np.ndarray:
    """Return the mean accuracy matrix of finished runs, NaN where a task is not learnt yet."""
    tables = [
        [[np.nan if value is None else value for value in row] for row in run["matrix"][split][kind]] for run in runs
    ]
    return np.mean(np.array(tables, dtype=np.float64), axis=0)

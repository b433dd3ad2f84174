"""One plain row per method, best first, with its lead over the teacher; and a summary of the experiment."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kd.analysis.compared import MethodRecord, Statistics
from kd.analysis.rows import RunRow
from kd.analysis.runs import TEACHER, by_group
from kd.reporting.text import spread
from kd.schema.cards import card
from kd.study.runs import NO_TEACHER
from kd.tools.csv_files import write_csv
from kd.tools.files import write_json

FILES = ("comparison_results.csv", "comparison_results.json", "experiment_summary.json")
MUTUAL, NOBODY = "None (Mutual)", "None"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A method, or a teacher, over its seeds; a number that is not known is None."""

    dataset: str
    pair: str
    method: str
    model: str
    teacher: str
    best_accuracy: float | None
    """Mean test top-1 in percent, of the weights that the tables show."""
    sd: float | None
    """Standard deviation over seeds."""
    training_time: float | None
    """Mean seconds of its own training."""
    epochs: float | None
    improvement: float | None
    """Points above the best of the pair's teachers."""
    improvement_percent: float | None
    """The same as a share of that teacher's accuracy."""
    seeds: int
    """How many runs the numbers are of."""
    error: str
    """Why runs have none."""


def listed(runs: Sequence[RunRow], statistics: Statistics) -> list[Listed]:
    """Return the rows of all groups, in each the most accurate first, those without a result last."""
    rows = {group: _rows_of(group_runs) for group, group_runs in by_group(runs).items()}
    found: list[Listed] = []
    for group in rows:
        records = [record for record in statistics.methods if record.group == group and record.role != "link"]
        best = max((one.mean for one in records if one.role == TEACHER and one.mean is not None), default=None)
        lines = [_listed(record, rows[group].get(_key(record), []), best) for record in records]
        found += sorted(lines, key=lambda line: -1.0 if line.best_accuracy is None else -line.best_accuracy - 1000)
    return found


def _rows_of(runs: Sequence[RunRow]) -> dict[tuple[str, str], list[RunRow]]:
    found: dict[tuple[str, str], list[RunRow]] = {}
    for run in runs:
        found.setdefault((run.method, run.student), []).append(run)
    return found


def _key(record: MethodRecord) -> tuple[str, str]:
    return record.method, record.student


def _listed(record: MethodRecord, runs: Sequence[RunRow], teacher: float | None) -> Listed:
    finished = list({run.path: run for run in runs if run.seed in record.seeds}.values())
    above = None if record.mean is None or teacher is None or record.role == TEACHER else record.mean - teacher
    return Listed(
        dataset=record.dataset,
        pair=record.pair,
        method=record.method,
        model=record.student,
        teacher=_taught_by(record),
        best_accuracy=record.mean,
        sd=record.sd,
        training_time=_mean(finished, "train_seconds"),
        epochs=_mean(finished, "epochs"),
        improvement=above,
        improvement_percent=None if above is None or not teacher else 100 * above / teacher,
        seeds=record.n_used,
        error="; ".join(f"seed {one.seed} {one.status}: {one.reason}" for one in record.unused),
    )


def _taught_by(record: MethodRecord) -> str:
    if record.teachers != NO_TEACHER:
        return record.teachers
    mutual = record.role != TEACHER and card(record.base_method).family == "online"
    return MUTUAL if mutual else NOBODY


def _mean(runs: Sequence[RunRow], column: str) -> float | None:
    found = [value for run in runs if (value := run.number(column)) is not None]
    return sum(found) / len(found) if found else None


def write_results_list(lines: Sequence[Listed], folder: Path) -> None:
    """Write comparison_results.csv and .json, and experiment_summary.json, into a folder."""
    rows = [{key: _short(value, key) for key, value in asdict(line).items()} for line in lines]
    write_csv(folder / FILES[0], rows, [one.name for one in fields(Listed)])
    write_json(folder / FILES[1], rows)
    write_json(folder / FILES[2], summary(lines, datetime.now(UTC)))


def summary(lines: Sequence[Listed], now: datetime) -> dict[str, Any]:
    """Return what stands in experiment_summary.json: of one pair plainly, of several by 'data set/pair'."""
    groups = dict.fromkeys((line.dataset, line.pair) for line in lines)
    found = {f"{dataset}/{pair}": _summary(lines, (dataset, pair)) for dataset, pair in groups}
    alone = next(iter(found.values())) if len(found) == 1 else {"pairs": found}
    return {"experiment_timestamp": now.isoformat(timespec="seconds"), **alone}


def _summary(lines: Sequence[Listed], group: tuple[str, str]) -> dict[str, Any]:
    own = [line for line in lines if (line.dataset, line.pair) == group]
    students = [line for line in own if line.method != TEACHER]
    there = [line for line in students if line.best_accuracy is not None]
    best = max(there, key=lambda line: line.best_accuracy or 0.0, default=None)
    return {
        "teacher_accuracy": {line.model: _short(line.best_accuracy) for line in own if line.method == TEACHER},
        "best_student_method": best.method if best else None,
        "best_student_accuracy": _short(best.best_accuracy) if best else None,
        "total_methods_tested": len(students),
        "successful_methods": len(there),
        "failed_methods": [line.method for line in students if line.best_accuracy is None],
    }


def printed(lines: Sequence[Listed]) -> Iterator[str]:
    """Yield the rows as lines of a table for a terminal, headings first."""
    heads = ["method", "model", "teacher", "best accuracy", "training time", "epochs", "improvement"]
    cells = [heads, *(_cells(line) for line in lines)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(heads))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(line: Listed) -> list[str]:
    above = "" if line.improvement is None else f"{line.improvement:+.2f} ({line.improvement_percent or 0.0:+.1f} %)"
    return [
        line.method,
        line.model,
        line.teacher,
        "no result" if line.best_accuracy is None else f"{spread(line.best_accuracy, line.sd)} %",
        "" if line.training_time is None else f"{line.training_time:.1f} s",
        "" if line.epochs is None else f"{line.epochs:g}",
        above,
    ]


def _short(value: Any, column: str = "") -> Any:
    """Return a number with as many digits as it deserves: epochs are whole unless they are a mean of different ones."""
    if not isinstance(value, float):
        return value
    return int(value) if column == "epochs" and value.is_integer() else round(value, 4)

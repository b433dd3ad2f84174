"""runs.csv, read back with the types it was written with."""

import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kd.analysis.collect import COLUMNS, IDENTITY
from kd.study.made import check_result
from kd.tools.errors import UserError

MADE = ("precision", "kernels", "eval_precision")
"""How a run's numbers were made."""
TEXT = {*IDENTITY, "status", "reason", "teacher_test_top1", "device", "path", *MADE} - {"seed"}
NUMBERS = [column for column in COLUMNS if column not in TEXT and column != "seed"]
TEACHER = "teacher"  # the method of a teacher's own row
LINK = "link"  # the kind of a run on the way to the last of a chain of runs

STATES = ("ok", "failed", "missing")

RunRow = dict[str, Any]
"""One row of runs.csv: texts ('' if unknown), numbers (None if unknown), seed an int."""


def read_runs(path: str | Path) -> list[RunRow]:
    """Return the rows of runs.csv; plain values, for a table library costs more to import than this job takes."""
    check_result(path, "collect")
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            absent = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if absent:
                raise UserError(f"{path} lacks the columns {', '.join(absent)}")
            rows = [_typed(row) for row in reader]
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: byte {error.start} is no UTF-8") from error
    except (csv.Error, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a table of runs: {error}") from error
    students = (row for row in rows if row["method"] != TEACHER)
    for run, same in grouped(students, lambda row: (row["dataset"], row["pair"], row["method"], row["seed"])).items():
        if len(same) > 1:
            raise UserError(f"{path} is not a table of runs: {len(same)} rows are {run[2]} with seed {run[3]}")
    return rows


def grouped(rows: Iterable[RunRow], key: Callable[[RunRow], Any]) -> dict[Any, list[RunRow]]:
    """Return the rows by key, keys and rows in the order they come in."""
    groups: dict[Any, list[RunRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def by_group(rows: Iterable[RunRow]) -> dict[tuple[str, str], list[RunRow]]:
    """Return the rows of each comparison group: data set and pair."""
    return grouped(rows, lambda row: (row["dataset"], row["pair"]))


def distinct(rows: Iterable[RunRow]) -> list[RunRow]:
    """Return the rows of different run folders: one teacher may serve every seed."""
    return [same[0] for same in grouped(rows, lambda row: row["path"]).values()]


def _typed(row: RunRow) -> RunRow:
    numbers = {name: float(row[name]) if row[name] else None for name in NUMBERS}
    for name, value in numbers.items():
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} is {row[name]} for {row['path']}")
    if row["status"] not in STATES:
        raise ValueError(f"the status of {row['path']} is {row['status']!r}, not one of {', '.join(STATES)}")
    return row | numbers | {"seed": int(row["seed"])}

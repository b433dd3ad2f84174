"""runs.csv, read back with the types it was written with."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kd.analysis.collect import COLUMNS, IDENTITY
from kd.spec.errors import UserError

TEXT = {*IDENTITY, "status", "reason", "teacher_test_top1", "device", "path"} - {"seed"}
NUMBERS = [column for column in COLUMNS if column not in TEXT and column != "seed"]
TEACHER = "teacher"  # the method of a teacher's own row
LINK = "link"  # the kind of a run on the way to the last of a chain of runs

RunRow = dict[str, Any]
"""One row of runs.csv: texts ('' if unknown), numbers (None if unknown), seed an int."""


def read_runs(path: str | Path) -> list[RunRow]:
    """Return the rows of runs.csv; plain values, for a table library costs more to import than this job takes."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            absent = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if absent:
                raise UserError(f"{path} lacks the columns {', '.join(absent)}")
            return [_typed(row) for row in reader]
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (csv.Error, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of runs: {error}") from error


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
    return row | numbers | {"seed": int(row["seed"])}

"""runs.csv, read back with the types it was written with."""

import io
from collections.abc import Callable, Hashable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pandas

from kd.analysis import measures
from kd.analysis.rows import RunRow, columns
from kd.study.made import check_result
from kd.tools.errors import UserError

TEACHER = "teacher"  # the method of a teacher's own row
LINK = "link"  # the kind of a run on the way to the last of a chain of runs
CONTROL = "control"  # the kind of a run that another method is compared with

STATES = ("ok", "failed", "missing")


class Grouped(Protocol):
    """What belongs to a comparison group: data set and pair."""

    @property
    def group(self) -> tuple[str, str]:
        """Return the group."""


Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)
Member = TypeVar("Member", bound=Grouped)


def read_runs(path: str | Path) -> list[RunRow]:
    """Return the rows of runs.csv. Errors: UserError for a file that is not one that `collect` wrote."""
    check_result(path, "collect")
    try:
        table = _read(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: byte {error.start} is no UTF-8") from error
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} is not a table of runs: {error}") from error
    students = table[table["method"] != TEACHER]
    for (_, _, method, seed), count in students.value_counts(["dataset", "pair", "method", "seed"]).items():
        if count > 1:
            raise UserError(f"{path} is not a table of runs: {count} rows are {method} with seed {seed}")
    return _rows(table)


def _read(path: str | Path) -> pandas.DataFrame:
    """Return the table with texts as they stand, seeds as integers and numbers exactly, NaN where a cell is empty.

    Left alone, pandas would take a method called NA for none and 007 for a number.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        text = file.read()
    table = pandas.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_filter=False)
    absent = [column for column in columns() if column not in table]
    if absent:
        raise ValueError(f"it lacks the columns {', '.join(absent)}")
    numbers = [measure.column for measure in measures.measures()]
    for column in numbers:
        cells = table[column]
        table[column] = cells.where(cells != "", "nan").map(float)
        wrong = table[(cells != "") & ~np.isfinite(table[column])]
        if len(wrong):
            raise ValueError(f"{column} is {cells[wrong.index[0]]} for {wrong['path'].iloc[0]}")
    table["seed"] = table["seed"].map(int)
    if (table["path"] == "").any():  # the last column: a row is cut
        raise ValueError("a row has no path")
    for status, run in zip(table["status"], table["path"], strict=True):
        if status not in STATES:
            raise ValueError(f"the status of {run} is {status!r}, not one of {', '.join(STATES)}")
    return table


def _rows(table: pandas.DataFrame) -> list[RunRow]:
    numbers = [measure.column for measure in measures.measures()]
    texts = [one.name for one in fields(RunRow) if one.name in table]
    known = table[numbers].astype(object).where(table[numbers].notna(), None)
    pairs = zip(table[texts].to_dict("records"), known.to_dict("records"), strict=True)
    return [RunRow(**text, numbers=values) for text, values in pairs]


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Return the rows by key, keys and rows in the order they come in."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def by_group(rows: Iterable[Member]) -> dict[tuple[str, str], list[Member]]:
    """Return the rows of each comparison group."""
    return grouped(rows, lambda row: row.group)


def distinct(rows: Iterable[RunRow]) -> list[RunRow]:
    """Return the rows of different run folders: one teacher may serve every seed."""
    return [same[0] for same in grouped(rows, lambda row: row.path).values()]

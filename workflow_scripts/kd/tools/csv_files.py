"""The one way in which tables are written as CSV: exact numbers, every text as it was, the file whole or absent."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kd.tools.files import atomic_write


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write a CSV file whole or not at all; see `csv_text`."""
    atomic_write(path, csv_text(rows, columns))


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Return a line of column names and one a row, in which a cell is empty where the row has nothing or None.

    Columns are those of the rows in the order in which they first appear, unless given; a row may then have no other.
    Floats have the fewest digits that give back the very same number.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row)) if columns is None else columns
    lines: list[str] = []
    # Before Python 3.13 the csv module quotes a carriage return in a text only where it ends lines too; left bare, it
    # would end the row for whoever reads it.
    writer = csv.DictWriter(SimpleNamespace(write=lines.append), columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)

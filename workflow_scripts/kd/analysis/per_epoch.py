"""metrics.csv, read with doubt: apart from other files, for an evaluation reads this one only."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd.tools.errors import UserError, damaged, shown

STAGE = "stage"  # the one column that is text


def read_metrics(path: Path, epochs: Any = None) -> list[dict[str, str]]:
    """Return the rows of a metrics.csv as text, checked to be numbers or empty; with `epochs`, to be so many.

    A damaged file is a UserError that names it.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except UnicodeDecodeError as error:
        raise damaged(path, f"byte {error.start} is no UTF-8") from error
    except (csv.Error, OSError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if epochs is not None and len(rows) != epochs:
        raise damaged(path, f"it holds {len(rows)} of {epochs} epochs")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise damaged(path, f"row {number} has not as many cells as the first line")
        _check_row(path, number, row)
    return rows


def _check_row(path: Path, number: int, row: Mapping[str, str]) -> None:
    if not row.get("epoch", "").isdecimal():
        raise damaged(path, f"row {number} has no epoch")
    for name, cell in row.items():
        try:
            if name != STAGE and cell:
                float(cell)
        except ValueError as error:
            raise damaged(path, f"{name} of row {number} is {shown(cell)}, not a number") from error

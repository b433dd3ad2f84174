"""What runs left on disk, read with doubt: a damaged file is a UserError that names it, which becomes the reason."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.tools.errors import UserError

ACCURACIES = ("val_top1", "test_top1", "test_top5", "agreement")
STAGE = "stage"  # the one column of metrics.csv that is text


def as_object(path: Path, content: Any) -> Any:
    """Return the content of a JSON file that must hold names and values."""
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds {_shown(content)} in the place of names and values")
    return content


def check_run(path: Path, record: Mapping[str, Any]) -> None:
    """Refuse a run.json whose numbers are none."""
    for name in ("epochs", "best_epoch", "peak_memory_mb"):
        _check_number(path, name, record.get(name))
    for part in ("seconds", "flops", "params"):
        for name, value in _part(path, part, record.get(part)).items():
            _check_number(path, f"{part}.{name}", value)
    _part(path, "hardware", record.get("hardware"))


def check_evaluation(path: Path, evaluation: Mapping[str, Any]) -> None:
    """Refuse an evaluation.json whose numbers are none, or whose accuracies lie outside 0..100."""
    for which in ("last", "best"):
        for name, value in _part(path, which, evaluation.get(which)).items():
            _check_number(path, f"{which}.{name}", value, highest=100 if name in ACCURACIES else math.inf)
    for name, value in _part(path, "ensemble", evaluation.get("ensemble")).items():
        _check_number(path, f"ensemble.{name}", value, highest=100)
    _check_number(path, "test_top1_tracked_max", evaluation.get("test_top1_tracked_max"), highest=100)


def check_matrix(path: Path, record: Mapping[str, Any]) -> None:
    """Refuse a matrix.json that does not hold square tables of accuracies, one row and column a task."""
    tasks = len(_numbers(path, "sizes", record.get("sizes")))
    for split in ("test", "val"):
        images = _numbers(path, f"images.{split}", _part(path, "images", record.get("images")).get(split))
        tables = _part(path, split, record.get(split))
        for kind in ("class", "task"):
            rows = tables.get(kind)
            if not isinstance(rows, list) or not tasks == len(rows) == len(images) > 0:
                raise _damaged(path, f"{split}.{kind} is no table of {tasks} tasks")
            for number, row in enumerate(rows, start=1):
                if len(_numbers(path, f"{split}.{kind}[{number}]", row, highest=100)) != tasks:
                    raise _damaged(path, f"{split}.{kind}[{number}] has no number for each of {tasks} tasks")


def read_metrics(path: Path, epochs: Any = None) -> list[dict[str, str]]:
    """Return the rows of a metrics.csv as text, checked to be numbers or empty; with `epochs`, to be so many."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except UnicodeDecodeError as error:
        raise _damaged(path, f"byte {error.start} is no UTF-8") from error
    except (csv.Error, OSError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if epochs is not None and len(rows) != epochs:
        raise _damaged(path, f"it holds {len(rows)} of {epochs} epochs")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise _damaged(path, f"row {number} has not as many cells as the first line")
        _check_row(path, number, row)
    return rows


def _check_row(path: Path, number: int, row: Mapping[str, str]) -> None:
    if not row.get("epoch", "").isdecimal():
        raise _damaged(path, f"row {number} has no epoch")
    for name, cell in row.items():
        try:
            if name != STAGE and cell:
                float(cell)
        except ValueError as error:
            raise _damaged(path, f"{name} of row {number} is {_shown(cell)}, not a number") from error


def _part(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise _damaged(path, f"{name} is {_shown(value)}, not names and values")
    return value or {}


def _numbers(path: Path, name: str, values: Any, highest: float = math.inf) -> Sequence[float | None]:
    if not isinstance(values, list):
        raise _damaged(path, f"{name} is {_shown(values)}, not a list")
    for value in values:
        _check_number(path, name, value, highest)
    return values


def _check_number(path: Path, name: str, value: Any, highest: float = math.inf) -> None:
    """Refuse what is no number from 0 to `highest`; None and NaN stand for numbers that are not known."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _damaged(path, f"{name} is {_shown(value)}, not a number")
    if value < 0 or value > min(highest, 1e300):
        raise _damaged(path, f"{name} is {_shown(value)}, which it cannot be")


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}")


def _shown(value: Any) -> str:
    if isinstance(value, int) and not -(10**18) < value < 10**18:
        return "a number of more than 18 digits"  # Python refuses to write those of thousands
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

"""What runs left on disk, read with doubt: a damaged file is a UserError that names it, which becomes the reason."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.analysis import measures
from kd.tools.errors import damaged, shown


def as_object(path: Path, content: Any) -> Any:
    """Return the content of a JSON file that must hold names and values."""
    if not isinstance(content, dict):
        raise damaged(path, f"it holds {shown(content)} in the place of names and values")
    return content


def check_numbers(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a run.json or evaluation.json whose numbers are none, or whose percentages lie outside 0..100.

    All numbers beside one that the catalogue of measures knows are checked with it.
    """
    keys = {measure.key: measure for measure in measures.kept_in(path.name)}
    percentages = {key.rpartition(".")[2] for key, measure in keys.items() if measure.unit == "%"}

    def check(name: str, value: Any, key: str) -> None:
        _check_number(path, name, value, highest=100 if key in percentages else math.inf)

    for key in keys:
        if "." not in key:
            check(key, content.get(key), key)
    for part in dict.fromkeys(key.partition(".")[0] for key in keys if "." in key):
        for name, value in _part(path, part, content.get(part)).items():
            check(f"{part}.{name}", value, name)


def check_run(path: Path, record: Mapping[str, Any]) -> None:
    """Refuse a run.json that does not hold what tables are made from."""
    check_numbers(path, record)
    _part(path, "hardware", record.get("hardware"))


def check_matrix(path: Path, record: Mapping[str, Any]) -> None:
    """Refuse a matrix.json that does not hold square tables of accuracies, one row and column a task."""
    tasks = len(_numbers(path, "sizes", record.get("sizes")))
    for split in ("test", "val"):
        images = _numbers(path, f"images.{split}", _part(path, "images", record.get("images")).get(split))
        tables = _part(path, split, record.get(split))
        for kind in ("class", "task"):
            rows = tables.get(kind)
            if not isinstance(rows, list) or not tasks == len(rows) == len(images) > 0:
                raise damaged(path, f"{split}.{kind} is no table of {tasks} tasks")
            for number, row in enumerate(rows, start=1):
                if len(_numbers(path, f"{split}.{kind}[{number}]", row, highest=100)) != tasks:
                    raise damaged(path, f"{split}.{kind}[{number}] has no number for each of {tasks} tasks")


def _part(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise damaged(path, f"{name} is {shown(value)}, not names and values")
    return value or {}


def _numbers(path: Path, name: str, values: Any, highest: float = math.inf) -> Sequence[float | None]:
    if not isinstance(values, list):
        raise damaged(path, f"{name} is {shown(values)}, not a list")
    for value in values:
        _check_number(path, name, value, highest)
    return values


def _check_number(path: Path, name: str, value: Any, highest: float = math.inf) -> None:
    """Refuse what is no number from 0 to `highest`; None and NaN stand for numbers that are not known."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise damaged(path, f"{name} is {shown(value)}, not a number")
    if value < 0 or value > min(highest, 1e300):
        raise damaged(path, f"{name} is {shown(value)}, which it cannot be")

"""metrics.csv: the history of a training, one row per epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.tools.csv_files import write_csv


def write_metrics(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.csv; columns in the order in which they first appear, empty where a row has none."""
    shown = [{key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    write_csv(path, shown, None if rows else ["epoch"])

"""metrics.csv: the history of a training, one row per epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.tools.files import atomic_write


def write_metrics(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.csv; columns in the order in which they first appear, empty where a row has none."""
    columns = list(dict.fromkeys(key for row in rows for key in row)) or ["epoch"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _shown(value) for key, value in row.items()} for row in rows)
    atomic_write(path, text.getvalue())


def _shown(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value

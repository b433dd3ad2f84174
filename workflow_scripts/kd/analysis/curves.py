"""Learning curves: read from the metrics.csv of several seeds, and kept as their mean and range in curves.csv."""

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd.analysis.measures import CURVES
from kd.analysis.per_epoch import read_metrics
from kd.analysis.rows import RunRow
from kd.analysis.runs import grouped
from kd.tools.csv_files import write_csv
from kd.tools.errors import UserError, damaged

log = logging.getLogger(__name__)

WHOSE = ("dataset", "pair", "method")
COLUMNS = (*WHOSE, "curve", "epoch", "mean", "low", "high")


@dataclass(frozen=True)
class Curves:
    """One quantity of a method over epochs, each an array of one number per epoch."""

    epochs: np.ndarray
    mean: np.ndarray
    """Over seeds; a seed that has ended counts with its last value.

    Seeds end at different epochs under a plateau schedule: were they left out from there on, the mean would jump.
    """
    low: np.ndarray
    """Of the lowest seed."""
    high: np.ndarray
    """Of the highest seed."""


ByMethod = Mapping[tuple[str, str, str], Mapping[str, Curves]]
"""By data set, pair and method: its curves by column of metrics.csv."""


def write_curves(runs: Iterable[RunRow], path: str | Path) -> None:
    """Write curves.csv, a line per method, curve and epoch, from the run folders of the finished runs."""
    finished = [run for run in runs if run.status == "ok" and run.kind != "teacher"]
    rows = [
        {**dict(zip(WHOSE, whose, strict=True)), "curve": curve.column, "epoch": int(epoch)}
        | {"mean": f"{mean:.7g}", "low": f"{low:.7g}", "high": f"{high:.7g}"}
        for whose, members in grouped(finished, lambda run: (run.dataset, run.pair, run.method)).items()
        for curve in CURVES
        if (found := over_seeds([run.path for run in members], curve.column))
        for epoch, mean, low, high in zip(found.epochs, found.mean, found.low, found.high, strict=True)
    ]
    write_csv(path, rows, COLUMNS)


def read_curves(path: str | Path) -> ByMethod:
    """Read curves.csv. Errors: UserError for a file that `write_curves` did not write."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        numbers = [(row, [float(row[name]) for name in COLUMNS[4:]]) for row in rows]
        keyed = grouped(numbers, lambda one: (*(one[0][name] for name in WHOSE), one[0]["curve"]))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise damaged(Path(path), f"it is no table of curves ({error})") from error
    found: dict[tuple[str, str, str], dict[str, Curves]] = {}
    for (dataset, pair, method, curve), lines in keyed.items():
        table = np.array([values for _, values in lines])
        found.setdefault((dataset, pair, method), {})[curve] = Curves(*table.T)
    return found


def over_seeds(folders: Sequence[str | Path], column: str) -> Curves | None:
    """Return a column of metrics.csv over the run folders given, None where no folder has it."""
    import pandas

    series = [one for folder in folders if (one := _series(Path(folder) / "metrics.csv", column))]
    if not series:
        return None
    # joined by epoch, a column a seed
    table = pandas.DataFrame({number: pandas.Series(one) for number, one in enumerate(series)}).sort_index()
    values = table.where(~table.bfill().isna(), table.ffill()).to_numpy()
    return Curves(table.index.to_numpy(), np.nanmean(values, 1), np.nanmin(values, 1), np.nanmax(values, 1))


def _series(path: Path, column: str) -> dict[int, float]:
    """Return the finite values of a column by epoch."""
    rows: list[dict[str, str]] = []
    if path.is_file():
        try:
            rows = read_metrics(path)
        except UserError as error:  # damaged since its run was collected
            log.warning("%s; its curve is not drawn", error)
    values = {int(row["epoch"]): float(row[column]) for row in rows if row.get(column)}
    return {epoch: value for epoch, value in values.items() if np.isfinite(value)}

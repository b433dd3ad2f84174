"""Learning curves of several seeds, read from their metrics.csv."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas

from kd.analysis.per_epoch import read_metrics
from kd.tools.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curves:
    """One quantity over epochs, a row a seed; NaN before a seed's first value, and its last one after it ended.

    Seeds end at different epochs under a plateau schedule: were they left out from there on, the mean would jump.
    """

    epochs: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Return the mean over seeds for each epoch."""
        return np.nanmean(self.values, axis=0)

    @property
    def low(self) -> np.ndarray:
        """Return the smallest seed for each epoch."""
        return np.nanmin(self.values, axis=0)

    @property
    def high(self) -> np.ndarray:
        """Return the largest seed for each epoch."""
        return np.nanmax(self.values, axis=0)


def read_curves(folders: Sequence[str | Path], column: str) -> Curves | None:
    """Return a column of metrics.csv over the run folders given, None where no folder has it."""
    series = [one for folder in folders if len(one := _series(Path(folder) / "metrics.csv", column))]
    if not series:
        return None
    table = pandas.concat(series, axis=1).sort_index()  # joined by epoch, a column a seed
    ended = table.bfill().isna()
    return Curves(table.index.to_numpy(), table.where(~ended, table.ffill()).to_numpy().T)


def _series(path: Path, column: str) -> "pandas.Series[float]":
    """Return the finite values of a column by epoch."""
    rows: list[dict[str, str]] = []
    if path.is_file():
        try:
            rows = read_metrics(path)
        except UserError as error:  # damaged since its run was collected
            log.warning("%s; its curve is not drawn", error)
    values = {int(row["epoch"]): float(row[column]) for row in rows if row.get(column)}
    return pandas.Series({epoch: value for epoch, value in values.items() if np.isfinite(value)}, dtype="float64")

"""Learning curves of several seeds, read from their metrics.csv (numpy only)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd.analysis.records import read_metrics
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
    series = [found for folder in folders if (found := _series(Path(folder) / "metrics.csv", column))]
    if not series:
        return None
    epochs = np.array(sorted(set().union(*series)))
    values = np.array([[one.get(epoch, np.nan) for epoch in epochs.tolist()] for one in series])
    for row in values:
        last = np.flatnonzero(np.isfinite(row))[-1]
        row[last:] = row[last]
    return Curves(epochs, values)


def _series(path: Path, column: str) -> dict[int, float]:
    if not path.is_file():
        return {}
    try:
        pairs = [(row.get("epoch"), row.get(column)) for row in read_metrics(path)]
    except UserError as error:  # damaged since its run was collected
        log.warning("%s; its curve is not drawn", error)
        return {}
    found = {int(float(epoch)): float(value) for epoch, value in pairs if epoch and value}
    return {epoch: value for epoch, value in found.items() if np.isfinite(value)}

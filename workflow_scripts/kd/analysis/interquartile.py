"""Interquartile means over places and seeds, with an interval that few seeds do not make too narrow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd.analysis.statistics import t_quantile, tidy

DRAWS = 2000
DRAW_SEED = 0
AT_ONCE = 200
"""Draws that are held at the same time."""
MOST_COPIES = 840
"""Into how many each place's runs are spread at most, where places differ in seeds."""


@dataclass(frozen=True, kw_only=True)
class Interquartile:
    """The mean of the middle half of all runs; without interval where a place has a single seed."""

    iqm: float
    iqm_low: float | None
    iqm_high: float | None


def interquartile(places: Sequence[Sequence[float]], confidence: float) -> Interquartile:
    """Return the interquartile mean (Agarwal et al. 2021) and its stratified bootstrap interval.

    `places` holds the scores of each place's runs; every place weighs the same. The interval is for these places: of
    what as many runs of other seeds give on average.
    Each place is drawn from by itself, with n - 1 draws of n runs: with n draws the spread of two or three seeds comes
    out too small by the factor sqrt((n - 1) / n) (Rao and Wu 1988). The interval is the estimate plus and minus the
    bootstrap's standard error times Student's t, with the degrees of freedom of the runs that the middle half rests on
    (Satterthwaite's, from what leaving out each run moves): percentiles of so few runs cover 65 to 90 % where 95 are
    meant.
    """
    scores = [np.sort(np.asarray(values, dtype=np.float64)) for values in places]
    copies = spread([len(values) for values in scores])
    iqm = float(_middle(_pooled(scores, copies)[None])[0])
    if min(len(values) for values in scores) < 2:
        return Interquartile(iqm=tidy(iqm), iqm_low=None, iqm_high=None)
    half = t_quantile(confidence, _freedom(scores, copies)) * bootstrap_error(scores)
    return Interquartile(iqm=tidy(iqm), iqm_low=tidy(iqm - half), iqm_high=tidy(iqm + half))


def spread(counts: Sequence[int]) -> int:
    """Return how many copies each place's runs take so that places weigh the same."""
    return min(int(np.lcm.reduce(np.array(counts, dtype=object))), max(MOST_COPIES, *counts))


def bootstrap_error(places: Sequence[np.ndarray]) -> float:
    """Return the standard error of the interquartile mean by drawing n - 1 of each place's n runs."""
    generator = np.random.default_rng(DRAW_SEED)
    copies = spread([len(values) - 1 for values in places])
    found = []
    for _ in range(0, DRAWS, AT_ONCE):
        drawn = [values[generator.integers(0, len(values), (AT_ONCE, len(values) - 1))] for values in places]
        found.append(_middle(_pooled(drawn, copies)))
    return float(np.std(np.concatenate(found), ddof=1))


def _pooled(places: Sequence[np.ndarray], copies: int) -> np.ndarray:
    """Return the runs of all places in one last axis, each place's as so many copies."""
    counts = [values.shape[-1] for values in places]
    parts = [values[..., np.arange(copies) * count // copies] for values, count in zip(places, counts, strict=True)]
    return np.concatenate(parts, axis=-1)


def _middle(scores: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half along the last axis: a quarter, rounded down, is left out at each end."""
    cut = scores.shape[-1] // 4
    return np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1)


def _freedom(places: Sequence[np.ndarray], copies: int) -> float:
    """Return the degrees of freedom: what moves if each run becomes the mean of its place's others, squared."""
    parts = np.array([_moved(places, number, copies) for number in range(len(places))])
    freedoms = np.array([len(values) - 1 for values in places])
    if not parts.any():
        return float(freedoms.sum())
    return float(parts.sum() ** 2 / (parts**2 / freedoms).sum())


def _moved(places: Sequence[np.ndarray], number: int, copies: int) -> float:
    own = places[number]
    others = (own.sum() - own) / (len(own) - 1)
    changed = np.where(np.eye(len(own), dtype=bool), others[:, None], own)
    around = [
        changed if place == number else np.broadcast_to(values, (len(own), len(values)))
        for place, values in enumerate(places)
    ]
    found = _middle(_pooled(around, copies))
    return float(((found - found.mean()) ** 2).sum())

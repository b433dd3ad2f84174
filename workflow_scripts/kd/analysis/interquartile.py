"""Interquartile means over places and seeds, with an interval that few seeds do not make too narrow."""

from collections.abc import Hashable, Iterable, Sequence
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


def interquartile(
    places: Sequence[Sequence[float]], confidence: float, blocks: Sequence[Hashable] | None = None
) -> Interquartile:
    """Return the interquartile mean (Agarwal et al. 2021) and its stratified bootstrap interval.

    `places` holds the scores of each place's runs; every place weighs the same. The interval is for these places: of
    what as many runs of other seeds give on average.
    Places of one block, of which `blocks` names each place's, share what a seed fixes: their runs are of the same seeds
    in the same order and are drawn together; blocks whose places differ in seeds have no interval. By default each
    place is a block.
    Each block is drawn from by itself, with n - 1 draws of n runs: with n draws the spread of two or three seeds comes
    out too small by the factor sqrt((n - 1) / n) (Rao and Wu 1988). The interval is the estimate plus and minus the
    bootstrap's standard error times Student's t, with the degrees of freedom of the runs that the middle half rests on
    (Satterthwaite's, from what leaving out each run moves): percentiles of so few runs cover 65 to 90 % where 95 are
    meant.
    """
    scores = [np.asarray(values, dtype=np.float64) for values in places]
    copies = spread([len(values) for values in scores])
    members = _members(range(len(scores)) if blocks is None else blocks)
    iqm = float(_middle(_pooled(scores, copies)[None])[0])
    uneven = any(len({len(scores[place]) for place in block}) > 1 for block in members)
    if uneven or min(len(values) for values in scores) < 2:
        return Interquartile(iqm=tidy(iqm), iqm_low=None, iqm_high=None)
    scores = _ordered(scores, members)
    half = t_quantile(confidence, _freedom(scores, members, copies)) * bootstrap_error(scores, members)
    return Interquartile(iqm=tidy(iqm), iqm_low=tidy(iqm - half), iqm_high=tidy(iqm + half))


def spread(counts: Sequence[int]) -> int:
    """Return how many copies each place's runs take so that places weigh the same."""
    return min(int(np.lcm.reduce(np.array(counts, dtype=object))), max(MOST_COPIES, *counts))


def _members(blocks: Iterable[Hashable]) -> list[list[int]]:
    """Return the places of each block."""
    found: dict[Hashable, list[int]] = {}
    for place, block in enumerate(blocks):
        found.setdefault(block, []).append(place)
    return list(found.values())


def _ordered(scores: Sequence[np.ndarray], members: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return the same runs, those of a block together, in an order that does not depend on which seed has which."""
    found = list(scores)
    for block in members:
        order = np.lexsort([scores[place] for place in reversed(block)])
        for place in block:
            found[place] = scores[place][order]
    return found


def bootstrap_error(places: Sequence[np.ndarray], members: Sequence[Sequence[int]]) -> float:
    """Return the standard error of the interquartile mean by drawing n - 1 of the n runs of each block's places."""
    generator = np.random.default_rng(DRAW_SEED)
    copies = spread([len(values) - 1 for values in places])
    found = []
    for _ in range(0, DRAWS, AT_ONCE):
        drawn = [*places]
        for block in members:
            runs = len(places[block[0]])
            which = generator.integers(0, runs, (AT_ONCE, runs - 1))
            for place in block:
                drawn[place] = places[place][which]
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


def _freedom(places: Sequence[np.ndarray], members: Sequence[Sequence[int]], copies: int) -> float:
    """Return the degrees of freedom: what moves if a run becomes the mean of its place's others, squared, by block."""
    parts = np.array([_moved(places, block, copies) for block in members])
    freedoms = np.array([len(places[block[0]]) - 1 for block in members])
    if not parts.any():
        return float(freedoms.sum())
    return float(parts.sum() ** 2 / (parts**2 / freedoms).sum())


def _moved(places: Sequence[np.ndarray], block: Sequence[int], copies: int) -> float:
    runs = len(places[block[0]])
    around = [np.broadcast_to(values, (runs, len(values))) for values in places]
    for place in block:
        own = places[place]
        around[place] = np.where(np.eye(runs, dtype=bool), ((own.sum() - own) / (runs - 1))[:, None], own)
    found = _middle(_pooled(around, copies))
    return float(((found - found.mean()) ** 2).sum())

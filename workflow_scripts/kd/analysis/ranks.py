"""Methods ranked over several places, each a pair of networks on a data set: Friedman, Nemenyi, signed ranks.

As Demsar (2006) compares classifiers over data sets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

# scipy.stats costs a second to import and is needed only where there are several places.


def complete(table: np.ndarray, last: Sequence[int] = ()) -> tuple[list[int], list[int]]:
    """Return the rows and columns of a table with gaps (NaN) that hold a whole one.

    The row or column with the largest share of gaps is left out until there is no gap, which loses few numbers; of
    equal shares columns go first, then rows, then the columns of `last`. Empty lists where nothing whole is left.
    """
    gaps = np.isnan(table)
    rows, columns = list(range(table.shape[0])), list(range(table.shape[1]))
    while rows and columns and gaps[np.ix_(rows, columns)].any():
        held = gaps[np.ix_(rows, columns)]
        shares = [(share, 1, rows, number) for share, number in zip(held.mean(axis=1), rows, strict=True)]
        for share, number in zip(held.mean(axis=0), columns, strict=True):
            shares.append((share, 0 if number in last else 2, columns, number))
        _, _, others, worst = max(shares, key=lambda one: one[:2])
        others.remove(worst)
    return (rows, columns) if rows and columns else ([], [])


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What the ranks of methods say beyond the places that they were measured on."""

    ranks: list[float]
    """Mean rank of each method, 1 for one that is the best everywhere; methods of equal score share theirs."""
    chi_square: float | None
    """Friedman's; None with fewer than three methods."""
    p: float | None
    """Of Friedman's test by the chi-square distribution, which few places make too large rather than too small."""
    critical_difference: float
    """Nemenyi's: mean ranks that lie so far apart are told apart."""
    alike: list[list[int]]
    """Methods that are not told apart, each largest set of neighbours by rank: the bars of the diagram."""


def ranking(scores: np.ndarray, confidence: float) -> Ranking:
    """Return the ranks of methods from their scores (places, methods), more being better."""
    from scipy import stats

    places, methods = scores.shape
    ranks = stats.rankdata(-scores, axis=1).mean(axis=0)
    chi_square = p = None
    if methods > 2 and np.ptp(scores, axis=1).any():  # the statistic of nothing but ties is 0 / 0
        chi_square, p = (float(value) for value in stats.friedmanchisquare(*scores.T))
    far = critical_difference(methods, places, confidence)
    return Ranking(
        ranks=[float(rank) for rank in ranks],
        chi_square=chi_square,
        p=p,
        critical_difference=far,
        alike=_alike(ranks, far),
    )


def critical_difference(methods: int, places: int, confidence: float) -> float:
    """Return Nemenyi's critical difference of mean ranks."""
    return _range_quantile(confidence, methods) / math.sqrt(2) * math.sqrt(methods * (methods + 1) / (6 * places))


@cache
def _range_quantile(confidence: float, methods: int) -> float:
    from scipy import stats

    return float(stats.studentized_range.ppf(confidence, methods, math.inf))


def _alike(ranks: np.ndarray, far: float) -> list[list[int]]:
    """Return the largest sets of neighbours that lie less than `far` apart, two methods or more, best first."""
    order = [int(index) for index in np.argsort(ranks, kind="stable")]
    found: list[list[int]] = []
    reached = 0
    for start in range(len(order)):
        end = start
        while end < len(order) and ranks[order[end]] - ranks[order[start]] < far:
            end += 1
        if end > reached and end - start > 1:
            found.append(order[start:end])
            reached = end
    return found


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed ranks, one difference a place; None where all are 0 or it is one.

    Exact for up to 50 places without ties (scipy's choice); it cannot be below 2 / 2^places.
    """
    from scipy import stats

    if len(differences) < 2 or not any(differences):
        return None
    return float(stats.wilcoxon(differences).pvalue)

"""What several seeds allow to be said: t intervals, paired differences, exact tests, Holm."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

EXACT_UP_TO = 16
RANDOM_FLIPS = 10_000
FLIP_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A mean over seeds, its sample standard deviation and its Student t interval; None where there are too few."""

    n: int
    mean: float | None
    sd: float | None
    half_width: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class PairedDifference(Summary):
    """What a method adds to a reference, seed by seed."""

    seeds: list[int]
    values: list[float]
    """In the order of the seeds."""
    p: float | None
    """Of the two-sided sign-flip test."""
    p_exact: bool | None
    flips: int | None
    """Patterns of signs that p counts over."""


def summarise(values: Sequence[float], confidence: float) -> Summary:
    """Return mean, sd (ddof = 1) and the Student t interval of the mean.

    Fewer than two values have no sd and no interval (None); no value has no mean either.
    """
    n = len(values)
    if n < 2:
        mean = tidy(float(values[0])) if n else None
        return Summary(n=n, mean=mean, sd=None, half_width=None, low=None, high=None)
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = t_quantile(confidence, n - 1) * sd / math.sqrt(n)
    return Summary(
        n=n, mean=tidy(mean), sd=tidy(sd), half_width=tidy(half), low=tidy(mean - half), high=tidy(mean + half)
    )


@cache
def t_quantile(confidence: float, freedom: int) -> float:
    """Return the two-sided Student t quantile, e.g. 12.706 for 0.95 and one degree of freedom."""
    from scipy.special import stdtrit  # scipy.stats would cost a second to import

    return float(stdtrit(freedom, 0.5 + confidence / 2))


def sign_flip_p(differences: Sequence[float]) -> tuple[float, bool]:
    """Return the two-sided sign-flip p value of paired differences and whether it is exact.

    All 2^n sign patterns up to n = 16; beyond, 10,000 seeded patterns with the observed one counted among them.
    The smallest value possible is 2^(1-n).
    """
    paired = np.asarray(differences, dtype=np.float64)
    n = len(paired)
    sums = np.abs(_signs(n) @ paired)
    # Patterns as extreme as the observed one must count in spite of rounding in the last digits.
    extreme = int((sums >= abs(paired.sum()) - 1e-9 * np.abs(paired).sum()).sum())
    return (extreme / 2**n, True) if n <= EXACT_UP_TO else ((extreme + 1) / (RANDOM_FLIPS + 1), False)


@cache
def _signs(n: int) -> np.ndarray:
    """Return the sign patterns of n differences, (patterns, n); an experiment asks for those of one n all the time."""
    if n <= EXACT_UP_TO:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        bits = np.random.default_rng(FLIP_SEED).integers(0, 2, size=(RANDOM_FLIPS, n))
    return (1 - 2 * bits).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def holm_by(p_values: Mapping[Key, float | None]) -> dict[Key, float]:
    """Return Holm's adjusted p values by key; what has none is left out and corrects nothing."""
    known = {key: p for key, p in p_values.items() if p is not None}
    return dict(zip(known, holm(list(known.values())), strict=True))


def over_seeds(values: Mapping[int, float], confidence: float) -> dict[str, Any]:
    """Return what a record says of its seeds: how many, their mean and interval, and the values in the order given."""
    summary = summarise(list(values.values()), confidence)
    told = {name: value for name, value in vars(summary).items() if name != "n"}
    return {"n_used": summary.n, **told, "seeds": list(values), "values": list(values.values())}


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float], confidence: float
) -> PairedDifference:
    """Return mean, t interval and sign-flip p of method minus reference over the seeds that both have.

    Both map seed to accuracy in percent; fewer than two common seeds give no interval and no p.
    """
    seeds = sorted(values.keys() & reference.keys())
    differences = [tidy(values[seed] - reference[seed]) for seed in seeds]
    p, exact = sign_flip_p(differences) if len(seeds) > 1 else (None, None)
    flips = None if exact is None else 2 ** len(seeds) if exact else RANDOM_FLIPS
    summary = vars(summarise(differences, confidence))
    return PairedDifference(**summary, seeds=seeds, values=differences, p=p, p_exact=exact, flips=flips)


def tidy(value: float) -> float:
    """Return the value without the digits in which platforms differ."""
    return float(f"{value:.10g}") + 0.0  # + 0.0 turns -0.0 into 0.0

"""What several seeds allow to be said: t intervals, paired differences, exact tests, Holm, shares won, seeds needed."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

EXACT_UP_TO = 16
RANDOM_FLIPS = 10_000
FLIP_SEED = 0
POWER = 0.8
"""Chance with which a difference is to be found, where the seeds for it are counted."""


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
def t_quantile(confidence: float, freedom: float) -> float:
    """Return the two-sided Student t quantile, e.g. 12.706 for 0.95 and one degree of freedom."""
    from scipy.special import stdtrit  # scipy.stats would cost a second to import

    return float(stdtrit(freedom, 0.5 + confidence / 2))


@dataclass(frozen=True)
class Estimate:
    """A mean over strata of equal weight (pairs of networks on data sets), each the mean of its own seeds."""

    mean: float
    error: float
    """Its standard error, for these very strata."""
    freedom: float
    """Degrees of freedom of that error (Satterthwaite 1946); n - 1 with one stratum."""

    def half_width(self, confidence: float) -> float:
        """Return that of the Student t interval."""
        return t_quantile(confidence, self.freedom) * self.error

    def is_below(self, confidence: float, tests: int) -> bool:
        """Whether the mean is below 0, one-sided and Bonferroni-corrected for so many tests.

        Where all seeds say the same they say nothing of how they vary, and nothing is told apart.
        """
        return (
            self.error > 0 and self.mean + t_quantile(1 - 2 * (1 - confidence) / tests, self.freedom) * self.error < 0
        )


def over_strata(strata: Sequence[Sequence[float]], weights: Sequence[float] | None = None) -> Estimate | None:
    """Return the mean of the strata's means, weighted if so asked; None where one has a single value, or there is none.

    Strata are independent of each other: what shares runs, or seeds' splits and teachers, belongs into one.
    """
    if not strata or min(map(len, strata)) < 2:
        return None
    shares = np.array(weights if weights is not None else [1.0] * len(strata))
    shares = shares / shares.sum()
    parts = shares**2 * np.array([np.var(values, ddof=1) / len(values) for values in strata])
    freedoms = np.array([len(values) - 1 for values in strata])
    # alike in all strata as the limit where nothing varies
    freedom = float(parts.sum() ** 2 / (parts**2 / freedoms).sum()) if parts.any() else float(freedoms.sum())
    mean = float((shares * [float(np.mean(values)) for values in strata]).sum())
    return Estimate(mean, float(np.sqrt(parts.sum())), freedom)


def smallest_p(n: int) -> float:
    """Return the smallest p that the sign-flip test of n differences can give."""
    return 2.0 ** (1 - n) if n <= EXACT_UP_TO else 1 / (RANDOM_FLIPS + 1)


def can_tell(n: int, tests: int, confidence: float) -> bool:
    """Whether a sign-flip p of n differences, Holm-corrected over so many tests, can fall below 1 - confidence."""
    return n > 1 and tests > 0 and tests * smallest_p(n) < 1 - confidence


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


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """The probability of improvement: how often a run beats the reference's run of its seed; None with nothing paired.

    Ties count half; each stratum (pair of networks on a data set) weighs the same, as in Agarwal et al. (2021).
    """

    won: float | None
    won_low: float | None
    """Of Wilson's score interval (1927): it needs no spread, so that three wins of three are no certainty."""
    won_high: float | None


Verdict = Literal["better", "worse", "equal", "open"]


def verdict(difference: Summary, rope: float, better: Literal["up", "down"] | None = "up") -> Verdict | None:
    """Return what an interval says beside a region of practical equivalence, [-rope, rope] (Kruschke 2018).

    better, worse: all of it beyond the region; equal: all of it inside; open: neither, or all seeds gave the same
    difference, which says nothing of how they vary; None without interval.
    """
    if difference.low is None or difference.high is None:
        return None
    low, high = (-difference.high, -difference.low) if better == "down" else (difference.low, difference.high)
    if difference.sd == 0:
        return "open"
    return "better" if low > rope else "worse" if high < -rope else "equal" if -rope <= low and high <= rope else "open"


def improvement(
    strata: Sequence[Sequence[float]], confidence: float, independent: Sequence[int] | None = None
) -> Improvement:
    """Return the probability of improvement from the paired gains of each stratum, more being better.

    `independent` are numbers of comparisons that share no runs with others, where strata do; by default all of them.
    """
    filled = [np.asarray(values) for values in strata if len(values)]
    if not filled:
        return Improvement(won=None, won_low=None, won_high=None)
    share = float(np.mean([np.mean((values > 0) + 0.5 * (values == 0)) for values in filled]))
    # comparisons that would be as sure were all strata of one size
    sizes = independent or [len(values) for values in filled]
    trials = len(sizes) ** 2 / sum(1 / size for size in sizes)
    low, high = wilson(share, trials, confidence)
    return Improvement(won=tidy(share), won_low=low, won_high=high)


def wilson(share: float, trials: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share of trials that came out so."""
    z = normal_quantile(confidence)
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    return tidy(max(middle - half, 0.0)), tidy(min(middle + half, 1.0))


def normal_quantile(confidence: float) -> float:
    """Return the two-sided quantile of the normal distribution, 1.960 for 0.95."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + confidence / 2))


POINTS = 20_000
"""Of the distribution that a power is averaged over."""


def seeds_needed(sd: float | None, difference: float, confidence: float, power: float = POWER) -> int | None:
    """Return the seeds with which a paired t interval misses 0, with the chance `power`, if the truth is `difference`.

    `sd` is the standard deviation of paired differences, in the same points; None or 0 tells nothing. The power is
    that of the noncentral t distribution, both tails (Cohen 1988, section 2.3).
    """
    if not sd:
        return None
    n = max(2, math.ceil(((normal_quantile(confidence) + normal_quantile(2 * power - 1)) * sd / difference) ** 2))
    while t_power(n, sd, difference, confidence) < power:  # the normal's n is at most a few too low
        n += 1
    return n


def t_power(n: int, sd: float, difference: float, confidence: float) -> float:
    """Return the chance that the paired t interval of n seeds misses 0 if the truth is `difference`.

    Averaged over the deviation that is observed, a chi variable: scipy's noncentral t is not a number at places.
    """
    from scipy.special import chdtri, ndtr

    quantile, shift = t_quantile(confidence, n - 1), difference * math.sqrt(n) / sd
    observed = np.sqrt(chdtri(n - 1, (np.arange(POINTS) + 0.5) / POINTS) / (n - 1))
    return float(np.mean(ndtr(shift - quantile * observed) + ndtr(-shift - quantile * observed)))


def pooled_sd(summaries: Sequence[Summary]) -> float | None:
    """Return the standard deviation of one difference from those of several, weighted by their degrees of freedom."""
    known = [(one.n - 1, one.sd) for one in summaries if one.sd is not None]
    return math.sqrt(sum(n * sd**2 for n, sd in known) / sum(n for n, _ in known)) if known else None


def tidy(value: float) -> float:
    """Return the value without the digits in which platforms differ."""
    return float(f"{value:.10g}") + 0.0  # + 0.0 turns -0.0 into 0.0

"""What several pairs and data sets say together: ranks, interquartile means, gains over the references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from kd.analysis.interquartile import Interquartile, interquartile
from kd.analysis.measures import Measure
from kd.analysis.placed import Against, MethodRecord
from kd.analysis.ranks import Ranking, complete, ranking, signed_rank_p
from kd.analysis.runs import grouped
from kd.analysis.statistics import Improvement, holm_by, improvement, over_strata, summarise, tidy
from kd.schema.config import Reporting

Place = tuple[str, str]
"""Data set and pair."""
Table = Mapping[str, Mapping[Place, Mapping[int, float]]]
"""Values by method, place and seed."""


@dataclass(frozen=True, kw_only=True)
class Overall(Interquartile):
    """A method over all places that are compared."""

    method: str
    base_method: str
    n_used: int
    """Finished runs."""
    mean: float
    """Of the places' means."""
    rank: float
    """Mean rank over the places."""
    is_best: bool
    """Whether its mean is the best."""
    tied_with_best: bool | None
    """Whether its seeds do not place it below the best on these places; None where a place has fewer than two."""
    ranks_with_best: bool
    """Whether its mean rank is nearer to the best method's than the critical difference."""


@dataclass(frozen=True, kw_only=True)
class Gain(Improvement, Against):
    """A method minus a reference over all places; positive is more, not better."""

    mean: float
    low: float | None
    high: float | None
    spread_over: Literal["seeds", "places"]
    """What the interval is about: other seeds of these places or, where they have one each, other places."""
    p: float | None
    """Of Wilcoxon's signed ranks, one difference a place."""
    p_holm: float | None
    holm_over: int


@dataclass(frozen=True, kw_only=True)
class Across:
    """The comparison over the places and methods that form a table without gaps."""

    places: list[list[str]]
    methods: list[Overall]
    """The best mean first."""
    gains: list[Gain]
    ranks: Ranking
    """In the order of the methods."""
    left_out: list[str]
    """Methods with results that some of the places lack."""
    left_out_places: list[list[str]]


def compare_across(records: Sequence[MethodRecord], measure: Measure, report: Reporting) -> Across | None:
    """Return what the students' records say together; None with fewer than two places or methods in common."""
    students = [one for one in records if one.role == "student" and one.n_used]
    by_method = grouped(students, lambda one: one.method)
    values = {name: {one.group: one.by_seed for one in found} for name, found in by_method.items()}
    every = list(dict.fromkeys(one.group for one in students))
    places, names = _whole(values, every, report.references)
    if len(places) < 2 or len(names) < 2:
        return None
    values = {name: {place: values[name][place] for place in places} for name in names}
    means = {name: float(np.mean([np.mean(list(one.values())) for one in values[name].values()])) for name in names}
    names.sort(key=lambda name: (-measure.gain(means[name]), name))
    scores = [[measure.gain(float(np.mean(list(values[name][place].values())))) for name in names] for place in places]
    # rounded, or differences in the last digit would part methods that are equal
    ranks = ranking(np.round(np.array(scores), 9), report.confidence)
    bases = {name: by_method[name][0].base_method for name in names}
    return Across(
        places=[list(place) for place in places],
        methods=[_overall(name, bases[name], values, means, ranks, names, measure, report) for name in names],
        gains=[one for name in report.references if name in names for one in _gains(name, values, measure, report)],
        ranks=ranks,
        left_out=[name for name in by_method if name not in names],
        left_out_places=[list(place) for place in every if place not in places],
    )


def read_across(content: Mapping[str, Any] | None) -> Across | None:
    """Return what `dataclasses.asdict` made of it."""
    if content is None:
        return None
    parts = {
        "methods": [Overall(**one) for one in content["methods"]],
        "gains": [Gain(**one) for one in content["gains"]],
        "ranks": Ranking(**content["ranks"]),
    }
    return Across(**{**content, **parts})


def _whole(values: Table, every: Sequence[Place], references: Sequence[str]) -> tuple[list[Place], list[str]]:
    """Return the places and methods of a table without gaps; references stay as long as others can go."""
    names = list(values)
    filled = [[0.0 if place in values[name] else np.nan for name in names] for place in every]
    kept = [names.index(name) for name in references if name in names]
    rows, columns = complete(np.array(filled).reshape(len(every), len(names)), kept)
    return [every[row] for row in rows], [names[column] for column in columns]


def _overall(
    name: str,
    base: str,
    values: Table,
    means: Mapping[str, float],
    ranks: Ranking,
    names: Sequence[str],
    measure: Measure,
    report: Reporting,
) -> Overall:
    own, best = values[name], names[0]
    behind = over_strata(*_by_dataset(own, values[best], measure))
    near = abs(ranks.ranks[names.index(name)] - ranks.ranks[0]) < ranks.critical_difference
    tied = None if behind is None else name == best or not behind.is_below(report.confidence, len(names) - 1)
    return Overall(
        **vars(_interquartile(own, report.confidence)),
        method=name,
        base_method=base,
        n_used=sum(map(len, own.values())),
        mean=tidy(means[name]),
        rank=tidy(ranks.ranks[names.index(name)]),
        is_best=name == best,
        tied_with_best=tied,
        ranks_with_best=near,
    )


def _interquartile(own: Mapping[Place, Mapping[int, float]], confidence: float) -> Interquartile:
    """Return a method's interquartile mean; the places of a data set are no further seeds, and its runs go together."""
    by_dataset: dict[str, set[frozenset[int]]] = {}
    for (dataset, _), one in own.items():
        by_dataset.setdefault(dataset, set()).add(frozenset(one))
    values = [[one[seed] for seed in sorted(one)] for one in own.values()]
    found = interquartile(values, confidence, [dataset for dataset, _ in own])
    # runs of other seeds do not go together
    aligned = all(len(seeds) == 1 for seeds in by_dataset.values())
    return found if aligned else replace(found, iqm_low=None, iqm_high=None)


def _paired(
    own: Mapping[Place, Mapping[int, float]], other: Mapping[Place, Mapping[int, float]], measure: Measure
) -> list[list[float]]:
    """Return the differences of each place, seed by seed, more being better."""
    return [
        [measure.gain(tidy(one[seed] - other[place][seed])) for seed in sorted(one.keys() & other[place].keys())]
        for place, one in own.items()
    ]


def _by_dataset(
    own: Mapping[Place, Mapping[int, float]], other: Mapping[Place, Mapping[int, float]], measure: Measure
) -> tuple[list[list[float]], list[float]]:
    """Return for each data set the differences, seed by seed, averaged over its places, and how many places it has.

    Places of a data set share splits and teachers, and methods without a teacher even the runs themselves, so that
    their differences are not independent; those of its seeds are. Seeds that one of its places lacks are left out.
    """
    found: dict[str, list[dict[int, float]]] = {}
    for place, one in own.items():
        common = sorted(one.keys() & other[place].keys())
        found.setdefault(place[0], []).append(
            {seed: measure.gain(tidy(one[seed] - other[place][seed])) for seed in common}
        )
    strata = []
    for places in found.values():
        shared = sorted(set.intersection(*(set(place) for place in places)))
        strata.append([sum(place[seed] for place in places) / len(places) for seed in shared])
    return strata, [float(len(places)) for places in found.values()]


def _gains(reference: str, values: Table, measure: Measure, report: Reporting) -> list[Gain]:
    """Return what every other method adds to a reference."""
    found = {name: _gain(values[name], values[reference], measure, report) for name in values if name != reference}
    adjusted = holm_by({name: one["p"] for name, one in found.items()})
    return [
        Gain(
            **one,
            method=name,
            reference=reference,
            p_holm=adjusted.get(name),
            holm_over=len(adjusted) * (name in adjusted),
        )
        for name, one in found.items()
    ]


def _gain(
    own: Mapping[Place, Mapping[int, float]],
    other: Mapping[Place, Mapping[int, float]],
    measure: Measure,
    report: Reporting,
) -> dict[str, Any]:
    better = _paired(own, other, measure)
    raw = [[measure.gain(value) for value in place] for place in better]
    # places without a common seed have the difference of their means
    steps = [
        tidy(
            float(
                np.mean(found) if found else np.mean(list(own[place].values())) - np.mean(list(other[place].values()))
            )
        )
        for place, found in zip(own, raw, strict=True)
    ]
    strata, weights = _by_dataset(own, other, measure)
    strata = [[measure.gain(value) for value in stratum] for stratum in strata]
    estimate, among = over_strata(strata, weights), summarise(steps, report.confidence)
    low, high = among.low, among.high
    if estimate is not None:
        half = estimate.half_width(report.confidence)
        assert among.mean is not None, "there are places"
        # about the mean of all; that of the seeds which all places have may be another
        low, high = tidy(among.mean - half), tidy(among.mean + half)
    return {
        **vars(improvement(better, report.confidence, [len(stratum) for stratum in strata if stratum])),
        "mean": among.mean,
        "low": low,
        "high": high,
        "spread_over": "places" if estimate is None else "seeds",
        "p": signed_rank_p(steps),
    }

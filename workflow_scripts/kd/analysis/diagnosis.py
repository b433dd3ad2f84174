"""What the seeds say together of each source of each half-stage, and of each chain's synergy as a target."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kd.analysis.rows import RunRow
from kd.analysis.runs import grouped
from kd.analysis.statistics import Summary, summarise, tidy
from kd.analysis.synergy import GIVEN, NAMES, Found, Place
from kd.schema.config import Reporting
from kd.study.chain import HALVES, TEACHER_UPDATE
from kd.study.designs import Design

SPLITS = {"val": "validation", "train": "training"}
"""In the order of the tables; and what the images are called."""
ORDER = (GIVEN, *HALVES)


@dataclass(frozen=True, kw_only=True)
class Spread(Summary):
    """A mean over seeds with its interval, and the seeds."""

    seeds: list[int]
    values: list[float]
    """In the order of the seeds."""


@dataclass(frozen=True, kw_only=True)
class SourceRecord(Place):
    """What the seeds of one chain say of a source at one half-stage, on one kind of images."""

    n_planned: int
    seeds: list[int]
    """Those that are told of."""
    means: dict[str, Spread]
    """By measure; one that does not apply is absent."""
    differences: dict[str, Spread]
    """To the teachers' average as given, with the same seed; none of the average itself."""
    role: str = "student"

    @property
    def is_target(self) -> bool:
        """Whether it is a synergy as the student update of its stage begins with it."""
        return self.what == "synergy" and self.half == TEACHER_UPDATE

    def content(self) -> dict[str, Any]:
        """Return it as analysis.json has it."""
        return asdict(self)

    def value(self, key: str) -> float | None:
        """Return the number behind a table's cell."""
        kind, _, measure = key.partition("delta_")
        found = self.differences.get(measure) if kind == "" and measure else self.means.get(key)
        return None if found is None else found.mean


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the synergy of a chain came to on one kind of images: that of its last stage, and how often it held."""

    last: SourceRecord
    bar: SourceRecord
    """The average of the teachers as given."""
    held: int
    of: int
    """In so many of the stages and seeds the synergy was at least as accurate as the average."""
    role: str = "student"

    def content(self) -> dict[str, Any]:
        """Return it as analysis.json has it."""
        return asdict(self)

    def value(self, key: str) -> float | None:
        """Return the number behind a table's cell."""
        return self.held if key == "held" else self.last.value(key)


def source_records(
    found: Sequence[Found], runs: Sequence[RunRow], design: Design, report: Reporting
) -> list[SourceRecord]:
    """Return the records of a design: chain by chain, validation images first, half-stages and sources in order."""
    here = [one for one in found if (one.dataset, one.pair) == (design.dataset, design.folder)]
    places = grouped((one for one in here if one.method in design.chains), lambda one: one.place)
    records = [_record(place, members, here, runs, report.confidence) for place, members in places.items()]
    return sorted(records, key=lambda one: (design.chains.index(one.method), [*SPLITS].index(one.split), *_order(one)))


def _order(one: Place) -> tuple[int, int]:
    return one.stage, ORDER.index(one.half)


def _record(
    place: Place, members: Sequence[Found], here: Sequence[Found], runs: Sequence[RunRow], confidence: float
) -> SourceRecord:
    own = {name: _by_seed(members, name) for name in NAMES}
    bar = [one for one in here if (one.method, one.split, one.what) == (place.method, place.split, "bar")]
    paired = {name: _minus(own[name], _by_seed(bar, name)) for name in NAMES} if place.what != "bar" else {}
    planned = [run for run in runs if (*run.group, run.method) == (place.dataset, place.pair, place.method)]
    return SourceRecord(
        **vars(place),
        n_planned=len(planned),
        seeds=sorted(one.seed for one in members),
        means={name: _spread(values, confidence) for name, values in own.items() if values},
        differences={name: _spread(values, confidence) for name, values in paired.items() if values},
    )


def _by_seed(members: Sequence[Found], measure: str) -> dict[int, float]:
    found = {one.seed: one.numbers[measure] for one in sorted(members, key=lambda one: one.seed)}
    return {seed: value for seed, value in found.items() if value is not None}


def _minus(values: Mapping[int, float], bar: Mapping[int, float]) -> dict[int, float]:
    return {seed: tidy(value - bar[seed]) for seed, value in values.items() if seed in bar}


def _spread(values: Mapping[int, float], confidence: float) -> Spread:
    found = list(values.values())
    return Spread(**vars(summarise(found, confidence)), seeds=list(values), values=found)


def outcomes(records: Sequence[SourceRecord]) -> list[Outcome]:
    """Return what the synergy of each chain came to, on each kind of images."""
    found = []
    for members in grouped(records, lambda one: (one.method, one.split)).values():
        targets = [one for one in members if one.is_target]
        bar = next(one for one in members if one.what == "bar")
        if targets:
            gains = [gain for one in targets for gain in one.differences["top1"].values]
            held = sum(gain >= 0 for gain in gains)
            found.append(Outcome(last=targets[-1], bar=bar, held=held, of=len(gains)))
    return found

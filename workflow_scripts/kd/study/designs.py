"""What the analysis of an experiment puts side by side: which methods, at which place of an axis, against which."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kd.schema.config import Analysis, Experiment, Pair, Strict
from kd.study.variant import Variant
from kd.tools.errors import UserError, one_of, unknown

OVERLAP_AXIS = "Classes that both teachers learn (%)"
FUSED = ("average", "certainty", "synergy")
"""What a student can learn from beside single teachers, as `report.analysis.reached` names it."""


class Point(Strict):
    """One method of one pair, at its place."""

    pair: str
    method: str
    line: str
    """Points of one line belong together."""
    x: float
    """Place on the axis; the row's number where it has no numbers."""
    against: int | None
    """Number of the point that this one's difference is taken to, among the design's points."""


class Design(Strict):
    """One table and one figure."""

    kind: str
    dataset: str
    folder: str
    """Where its figure lies below the data set's: a pair, or all pairs of a student together."""
    axis: str = ""
    """What x is; empty where points are rows in an order."""
    points: list[Point]
    chains: list[str] = []
    """Methods whose half-stages are told of; the points are then what students reached, each line a source."""


def designs(experiment: Experiment, variants: Mapping[str, Variant], datasets: Sequence[str]) -> list[Design]:
    """Return the designs of the experiment's analysis: one a data set and pair, for an overlap one a student.

    `variants` are the methods of the experiment by name. Errors: UserError for what cannot stand on the axis.
    """
    analysis = experiment.report.analysis
    if analysis is None:
        return []
    for name in analysis.variants:
        if name not in variants:
            raise unknown("method in report.analysis.variants", name, variants)
    if analysis.kind == "overlap":
        groups = dict(_overlaps(experiment, analysis))
    elif analysis.kind == "synergy":
        _check_synergy(experiment, analysis, variants)
        groups = {pair.name: _reached(analysis, pair) for pair in experiment.pairs}
    else:
        places = _places(analysis, variants)
        groups = {pair.name: _rows(analysis, pair, places, variants) for pair in experiment.pairs}
    axis = OVERLAP_AXIS if analysis.kind == "overlap" else analysis.setting or ""
    chains = analysis.variants if analysis.kind == "synergy" else []
    return [
        Design(kind=analysis.kind, dataset=dataset, folder=folder, axis=axis, points=points, chains=chains)
        for dataset in datasets
        for folder, points in groups.items()
    ]


def _places(analysis: Analysis, variants: Mapping[str, Variant]) -> list[float]:
    """Return where each variant stands: at its setting's value, or one after the other."""
    if analysis.setting is None:
        return [float(row) for row in range(len(analysis.variants))]
    return [_value(variants[name], analysis.setting) for name in analysis.variants]


def _value(variant: Variant, setting: str) -> float:
    if variant.searched:
        raise UserError(
            f"report.analysis: the settings of {variant.name} are what its search finds, no place on an axis"
        )
    known = {key: value for _, settings in variant.parts for key, value in settings.items()}
    if setting not in known:
        raise unknown(f"setting of {variant.name} in report.analysis.setting", setting, known)
    value: Any = known[setting]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"report.analysis.setting: {setting} of {variant.name} must be a number, found {value!r}")
    return float(value)


def _rows(analysis: Analysis, pair: Pair, places: Sequence[float], variants: Mapping[str, Variant]) -> list[Point]:
    """Return the points of one pair, in the order of the variants."""
    ladder = analysis.kind == "ladder"
    return [
        Point(
            pair=pair.name,
            method=name,
            line=variants[name].base,
            x=place,
            against=None if row == 0 else row - 1 if ladder else 0,
        )
        for row, (name, place) in enumerate(zip(analysis.variants, places, strict=True))
    ]


def _check_synergy(experiment: Experiment, analysis: Analysis, variants: Mapping[str, Variant]) -> None:
    """Refuse variants that fuse nothing, and what no student can learn from."""
    for name in analysis.variants:
        if not variants[name].chain:
            raise UserError(
                "report.analysis.variants: kind synergy tells of the half-stages of asib and its variants, found "
                f"{name}, which has none"
            )
    sources = [*FUSED, *(name for pair in experiment.pairs for name in pair.teachers)]
    for source, name in analysis.reached.items():
        if source not in sources:
            raise unknown("source in report.analysis.reached", source, sources)
        if name not in variants:
            raise unknown(f"method in report.analysis.reached.{source}", name, variants)
        for pair in experiment.pairs:
            learned = _learned_from(variants[name], pair)
            if source in (*FUSED, *pair.teachers) and source not in learned:
                raise UserError(
                    f"report.analysis.reached.{source}: {name} of pair {pair.name} learns from "
                    f"{one_of(learned) if learned else 'no teacher'}"
                )


def _learned_from(variant: Variant, pair: Pair) -> tuple[str, ...]:
    """Return what a method may have learned from, as `reached` names it."""
    averages = FUSED[:2] if variant.teachers == "many" and not variant.chain else ()
    one = (variant.teacher or pair.teachers[0],) if variant.teachers == "one" else ()
    return ("synergy",) if variant.chain else (*averages, *one)


def _reached(analysis: Analysis, pair: Pair) -> list[Point]:
    """Return what students of a pair reached, from what it has: differences are to the first."""
    here = [(source, name) for source, name in analysis.reached.items() if source in (*FUSED, *pair.teachers)]
    return [
        Point(pair=pair.name, method=name, line=source, x=float(row), against=0 if row else None)
        for row, (source, name) in enumerate(here)
    ]


def _overlaps(experiment: Experiment, analysis: Analysis) -> Iterator[tuple[str, list[Point]]]:
    """Yield for each student the points of its pairs, from the smallest overlap to the largest."""
    for student in dict.fromkeys(pair.student for pair in experiment.pairs):
        pairs = {_overlap(experiment, pair): pair for pair in experiment.pairs if pair.student == student}
        count = sum(pair.student == student for pair in experiment.pairs)
        if len(pairs) < max(count, 2):
            raise UserError(
                f"report.analysis: kind overlap needs pairs of different overlaps for student {student}, found "
                f"{count} with {', '.join(f'{overlap:g}' for overlap in sorted(pairs))}"
            )
        points: list[Point] = []
        for overlap, pair in sorted(pairs.items(), key=lambda item: item[0]):
            first = len(points)
            points += [
                Point(pair=pair.name, method=name, line=name, x=100 * overlap, against=first if row else None)
                for row, name in enumerate(analysis.variants)
            ]
        yield f"overlap--{student}", points


def _overlap(experiment: Experiment, pair: Pair) -> float:
    """Return the share of classes that the two teachers of a pair both learn; teachers of all classes share all."""
    shares = [experiment.models[name].classes if name in experiment.models else None for name in pair.teachers]
    overlaps = {1.0 if share is None else share.overlap for share in shares}
    sides = [share.side for share in shares if share is not None]
    apart = overlaps != {1.0} and sorted(sides) != ["first", "second"]
    if len(pair.teachers) != 2 or len(overlaps) != 1 or apart:
        raise UserError(
            f"report.analysis: kind overlap needs two teachers a pair whose models.NAME.classes have one overlap, one "
            f"with side first and one with side second, found {pair.name}"
        )
    return overlaps.pop()

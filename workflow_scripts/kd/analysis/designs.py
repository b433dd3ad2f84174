"""The numbers of an experiment's own analysis: each point with its interval and its paired difference."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kd.analysis import measures
from kd.analysis.compared import seed_values
from kd.analysis.placed import Against
from kd.analysis.rows import RunRow
from kd.analysis.statistics import PairedDifference, holm_by, over_seeds, paired_difference, summarise
from kd.schema.config import Reporting
from kd.study.designs import Design, Point


@dataclass(frozen=True, kw_only=True)
class PointDifference(PairedDifference, Against):
    """A point minus the one that it is compared with, seed by seed."""

    p_holm: float | None


@dataclass(frozen=True, kw_only=True)
class PointRecord:
    """What the seeds of one point say."""

    pair: str
    method: str
    line: str
    x: float
    base_method: str
    teachers: str
    n_planned: int
    n_used: int
    mean: float | None
    sd: float | None
    half_width: float | None
    low: float | None
    high: float | None
    seeds: list[int]
    values: list[float]
    difference: PointDifference | None
    role: str = "student"

    def content(self) -> dict[str, Any]:
        """Return it as analysis.json has it."""
        return asdict(self)

    def value(self, key: str) -> float | None:
        """Return the number behind a table's cell."""
        one = self.difference
        compared = (None, None) if one is None else (one.mean, one.p_holm)
        found = {"x": self.x, "accuracy": self.mean, "n": self.n_used, "delta": compared[0], "p": compared[1]}
        return found.get(key)


def design_records(runs: Sequence[RunRow], design: Design, report: Reporting) -> list[PointRecord]:
    """Return one record per point, in order: place, t interval over seeds, the difference to the point it is against.

    Differences are paired by seed and have sign-flip p values, Holm-corrected over the whole design. The numbers are
    what a report about these weights compares methods by.
    """
    measure = measures.compared_by(report.weights)
    found = [_rows(runs, design, point) for point in design.points]
    values = [seed_values(rows, measure) for rows in found]
    differences = _differences(design, values, report.confidence)
    return [
        _record(point, rows, own, difference, report.confidence)
        for point, rows, own, difference in zip(design.points, found, values, differences, strict=True)
    ]


def _record(
    point: Point,
    rows: Sequence[RunRow],
    values: dict[int, float],
    difference: PointDifference | None,
    confidence: float,
) -> PointRecord:
    return PointRecord(
        pair=point.pair,
        method=point.method,
        line=point.line,
        x=point.x,
        base_method=rows[0].base_method if rows else point.method,
        teachers=rows[0].teachers if rows else "",
        n_planned=len(rows),
        **over_seeds(values, confidence),
        difference=difference,
    )


def _rows(runs: Sequence[RunRow], design: Design, point: Point) -> list[RunRow]:
    """Return the runs of a point, by seed; earlier links of chains of runs have other names."""
    place = (design.dataset, point.pair, point.method)
    return sorted((row for row in runs if (*row.group, row.method) == place), key=lambda row: row.seed)


def _differences(design: Design, values: Sequence[dict[int, float]], confidence: float) -> list[PointDifference | None]:
    """Return the difference of each point that is compared with another, p corrected over all of them."""
    paired = {
        number: paired_difference(own, values[point.against], confidence)
        for number, (point, own) in enumerate(zip(design.points, values, strict=True))
        if point.against is not None
    }
    adjusted = holm_by({number: one.p for number, one in paired.items()})
    return [
        PointDifference(
            **vars(paired[number]),
            method=point.method,
            reference=design.points[point.against].method,
            p_holm=adjusted.get(number),
        )
        if point.against is not None
        else None
        for number, point in enumerate(design.points)
    ]


def reference_means(runs: Sequence[RunRow], design: Design, report: Reporting) -> dict[str, float]:
    """Return the mean of each of the report's references in the design's pair that is no point of it."""
    measure, found = measures.compared_by(report.weights), {}
    shown = {point.method for point in design.points}
    for name in report.references:
        point = design.points[0].model_copy(update={"method": name})
        mean = summarise(list(seed_values(_rows(runs, design, point), measure).values()), report.confidence).mean
        if name not in shown and mean is not None:
            found[name] = mean
    return found

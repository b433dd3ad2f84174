"""The numbers of an experiment's own analysis: each point with its interval and its paired difference."""

from collections.abc import Sequence
from typing import Any

from kd.analysis.runs import RunRow
from kd.analysis.statistics import holm, paired_difference, seed_values, summarise
from kd.schema.config import Reporting
from kd.study.designs import Design, Point

Record = dict[str, Any]


def design_records(runs: Sequence[RunRow], design: Design, report: Reporting) -> list[Record]:
    """Return one record a point, in order: place, t interval over seeds, and the difference to the point it is against.

    Differences are paired by seed and have sign-flip p values, Holm-corrected over the whole design. Accuracies are
    test top-1 in percent of the weights that `report` names.
    """
    column = f"test_top1_{report.weights}"
    found = [_rows(runs, design, point) for point in design.points]
    values = [seed_values(rows, column) for rows in found]
    records = [
        {
            **point.model_dump(exclude={"against"}),
            "base_method": rows[0]["base_method"] if rows else point.method,
            "teachers": rows[0]["teachers"] if rows else "",
            "n_planned": len(rows),
            **{("n_used" if key == "n" else key): value for key, value in summary.items()},
            "seeds": list(own),
            "values": list(own.values()),
            "difference": None if point.against is None else _difference(design, values, number, report.confidence),
        }
        for number, (point, rows, own) in enumerate(zip(design.points, found, values, strict=True))
        for summary in [summarise(list(own.values()), report.confidence)]
    ]
    _correct([record["difference"] for record in records if record["difference"] is not None])
    return records


def _rows(runs: Sequence[RunRow], design: Design, point: Point) -> list[RunRow]:
    """Return the runs of a point, by seed; earlier links of chains of runs have other names."""
    place = (design.dataset, point.pair, point.method)
    return sorted(
        (row for row in runs if (row["dataset"], row["pair"], row["method"]) == place), key=lambda row: row["seed"]
    )


def _difference(design: Design, values: Sequence[dict[int, float]], number: int, confidence: float) -> Record:
    against = design.points[number].against
    assert against is not None
    found = paired_difference(values[number], values[against], confidence)
    return {"method": design.points[number].method, "reference": design.points[against].method, **found, "p_holm": None}


def _correct(differences: Sequence[Record]) -> None:
    """Fill in the adjusted p values."""
    tested = [one for one in differences if one["p"] is not None]
    for one, adjusted in zip(tested, holm([one["p"] for one in tested]), strict=True):
        one["p_holm"] = adjusted


def reference_means(runs: Sequence[RunRow], design: Design, report: Reporting) -> dict[str, float]:
    """Return the mean of each of the report's references in the design's pair that is no point of it."""
    column, found = f"test_top1_{report.weights}", {}
    shown = {point.method for point in design.points}
    for name in report.references:
        point = design.points[0].model_copy(update={"method": name})
        mean = summarise(list(seed_values(_rows(runs, design, point), column).values()), report.confidence)["mean"]
        if name not in shown and mean is not None:
            found[name] = mean
    return found

"""An experiment's own analysis as a table and a figure: sensitivity, ladder, sweep of a setting, overlap."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kd.analysis import measures
from kd.analysis.designs import PointRecord, design_records, reference_means
from kd.analysis.measures import Weights
from kd.analysis.rows import RunRow
from kd.analysis.runs import grouped
from kd.reporting import text
from kd.reporting.caption import WEIGHTS as READ
from kd.reporting.caption import described, p_is_told, paired_sentences, seeds_sentence, teacher_sentence
from kd.reporting.dots import PERCENT, dots, limits_of, mean_of, reading, row_places, rows_of
from kd.reporting.figures import accuracy_label, taught
from kd.reporting.lines import Row, Section
from kd.reporting.style import COLUMN, GREY, LINES, Look, headed, looks, new_figure, plain_scale, wrapped_name
from kd.schema.config import Reporting
from kd.study.designs import Design
from kd.tools.csv_files import csv_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AGAINST = {
    "factors": "Differences are to the first row, {first}.",
    "ladder": "Each rung's difference is to the one above it.",
    "sweep": "Differences are to {first}.",
    "overlap": "The two teachers of a student trained on class sets of which they share the given part of all classes, "
    "the student on all classes; differences are to {first} with the same teachers.",
    "synergy": "Each student learned from what its row names; differences are to {first}.",
}
TITLES = {
    **{"factors": "sensitivity", "ladder": "ladder", "sweep": "sweep", "overlap": "overlap of the teachers' classes"},
    "synergy": "what students reached",
}
MOST_LEVEL_TICKS = 8
"""More numbers below an axis than these stand upright."""
COLUMNS = [
    *["dataset", "kind", "pair", "method", "base_method", "line", "axis", "x", "n_planned", "n_used"],
    *["mean", "half_width", "low", "high", "sd"],
]
DIFFERENCE = ["mean", "low", "high", "n", "p", "p_holm"]


# --- tables ---------------------------------------------------------------------------------------


def design_section(
    runs: Sequence[RunRow], design: Design, report: Reporting, meta: Mapping[str, Any]
) -> Section[PointRecord]:
    """Return the table of one design."""
    records = design_records(runs, design, report)
    columns = {"x": design.axis} if design.axis else {"line": "Learned from"} if design.chains else {}
    compared = "the row above" if design.kind == "ladder" else design.points[0].method
    accuracy = measures.compared_by(report.weights).title
    tested = [record.difference for record in records if record.difference is not None]
    columns |= {"method": "Method", "accuracy": accuracy, "n": "n", "delta": f"Δ {compared}"}
    columns |= {"p": "p (Holm)"} if p_is_told(tested, report.confidence) else {}
    rows = [Row(record, _cells(record), bold=False) for record in records]
    sentences = [
        f"Test top-1 accuracy (%) on {described(design.dataset, meta)}; {READ[report.weights]}.",
        seeds_sentence([record.n_planned for record in records]),
        AGAINST[design.kind].format(first=design.points[0].method),
        *paired_sentences([tested], report.confidence),
        teacher_sentence(
            meta,
            [record.teachers for record in records],
            max((record.n_planned for record in records), default=0),
        ),
    ]
    caption = " ".join(sentence for sentence in sentences if sentence)
    return Section(design.dataset, _heading(design), caption, columns, rows, [])


def _heading(design: Design) -> str:
    """Return the pair or, for an overlap, the student, and what is asked."""
    return f"{design.folder.removeprefix('overlap--')}, {TITLES[design.kind]}"


def _cells(record: PointRecord) -> dict[str, str]:
    complete = record.n_used == record.n_planned
    one = record.difference
    delta, p = text.NONE, text.NONE
    if one is not None:
        delta = f"{text.signed(one.mean)} {text.interval(one.low, one.high)}".strip()
        p = text.p_value(one.p_holm)
    return {
        "x": f"{record.x:g}",
        "line": record.line,
        "method": record.method,
        "accuracy": text.spread(record.mean, record.sd),
        "n": str(record.n_used) if complete else f"{record.n_used} of {record.n_planned}",
        "delta": delta,
        "p": p,
    }


def as_csv(designs: Sequence[Design], sections: Sequence[Section[PointRecord]]) -> str:
    """Return all designs as one CSV of plain numbers, empty where unknown."""
    columns = [*COLUMNS, "reference", *(f"difference_{key}" for key in DIFFERENCE)]
    pairs = zip(designs, sections, strict=True)
    return csv_text((_flat(design, row.numbers) for design, section in pairs for row in section.rows), columns)


def _flat(design: Design, record: PointRecord) -> dict[str, Any]:
    """Return a point's plain numbers by column."""
    one = record.difference
    found = {f"difference_{key}": getattr(one, key) for key in DIFFERENCE} if one is not None else {}
    return {
        **{key: getattr(design if key in ("dataset", "kind", "axis") else record, key) for key in COLUMNS},
        "reference": None if one is None else one.reference,
        **found,
    }


# --- figures --------------------------------------------------------------------------------------


def design_figure(runs: Sequence[RunRow], design: Design, report: Reporting, families: Mapping[str, str]) -> "Figure":
    """Return the figure of a design: lines over its axis, or rows with accuracies and differences side by side."""
    records = design_records(runs, design, report)
    look = looks({record.method: record.base_method for record in records}, families)
    used = [look[record.method] for record in records if record.mean is not None]
    if not used:
        figure, notes = new_figure(COLUMN, 0.5), ["No run has finished."]
    elif design.axis:
        figure = _lines(records, design, reference_means(runs, design, report), look, report.weights)
        notes = ["Line: mean of the seeds; band and dots: the seeds."]
    else:
        figure, note = _rows_and_differences(records, design, report, look)
        notes = [note]
    headed(figure, TITLES[design.kind].capitalize(), [f"{place_of(design)}.", *notes], used)
    return figure


def place_of(design: Design) -> str:
    """Return in words whose student, on which data set, a design is about."""
    student = design.folder.removeprefix("overlap--")
    return f"{f'Student {student}' if student != design.folder else taught(design.folder)}, on {design.dataset}"


def _lines(
    records: Sequence[PointRecord],
    design: Design,
    references: Mapping[str, float],
    look: Mapping[str, Look],
    weights: Weights,
) -> "Figure":
    """Return accuracy over the axis: a line a method with the range over seeds, references as level lines."""
    lines = grouped(records, lambda record: record.line)
    levels = references if design.kind == "sweep" else {}
    legend_rows = -(-(len(lines) + len(levels)) // 2)
    figure = new_figure(COLUMN, 2.1 + 0.14 * legend_rows)
    axes = figure.add_subplot()
    for line, members in lines.items():
        found = sorted((one for one in members if one.mean is not None), key=lambda one: one.x)
        if found:
            _line(axes, found, look[found[0].method], line)
    for number, (name, mean) in enumerate(levels.items()):
        axes.axhline(mean, color=GREY, linewidth=0.8, linestyle=LINES[1 + number % 3], label=name, zorder=1)
    _scale(axes, sorted({record.x for record in records}))
    plain_scale(axes, "y", 5)
    axes.set_xlabel(design.axis)
    axes.set_ylabel(accuracy_label(weights))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _line(axes: "Axes", found: Sequence[PointRecord], look: Look, label: str) -> None:
    x = [one.x for one in found]
    axes.plot(x, [mean_of(one) for one in found], look.line, color=look.color, marker=look.marker, ms=3.5, label=label)
    low, high = ([edge(one.values) for one in found] for edge in (min, max))
    axes.fill_between(x, low, high, color=look.color, alpha=0.12, linewidth=0, zorder=1)
    for one in found:
        axes.plot([one.x] * len(one.values), one.values, ".", color=look.color, ms=2, alpha=0.6, zorder=2)


def _scale(axes: "Axes", places: Sequence[float]) -> None:
    """Put a tick at every place; places that span orders of magnitude stand on a logarithmic axis, 0 at its left."""
    from matplotlib.ticker import NullLocator

    positive = [place for place in places if place > 0]
    if positive and min(places) >= 0 and max(positive) >= 100 * min(positive):
        axes.set_xscale("symlog", linthresh=min(positive))
        axes.xaxis.set_minor_locator(NullLocator())
        # the automatic margin would reach far below 0
        axes.set_xlim(-0.2 * min(positive) if 0 in places else min(positive) / 1.5, max(positive) * 1.5)
    axes.set_xticks(places, [f"{place:g}" for place in places], rotation=90 if len(places) > MOST_LEVEL_TICKS else 0)


def _rows_and_differences(
    records: Sequence[PointRecord], design: Design, report: Reporting, look: Mapping[str, Look]
) -> tuple["Figure", str]:
    """Return a row a variant, its accuracy at the left, its paired difference at the right, and how they are read."""
    names = [record.method for record in records]
    figure, (left, right) = rows_of(names, panels=2)
    places, _ = row_places([wrapped_name(name) for name in names])
    shown = [record if record.mean is not None else None for record in records]
    known = [record for record in shown if record is not None]
    limits = limits_of([one.values for one in known], known, PERCENT)
    dots(left, shown, places, limits, look)
    left.set_xlabel(accuracy_label(report.weights))
    differences = [one.difference if one.difference and one.difference.n else None for one in records]
    paired = [one for one in differences if one is not None]
    reach = limits_of([[0.0], *(one.values for one in paired)], paired)
    right.axvline(0, color="black", linewidth=0.7, zorder=1)
    dots(right, differences, places, reach, look)
    compared = "the row above" if design.kind == "ladder" else design.points[0].method
    right.set_xlabel("Difference (points)")
    interval = f"{100 * report.confidence:.6g}% t interval"
    return figure, f"At the right each row minus {compared}, with the same seed. {reading(known, limits, interval)}"

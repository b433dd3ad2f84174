"""The figures of an experiment: learning curves, accuracy, paired differences, accuracy beside cost."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kd.analysis import measures
from kd.analysis.compared import Difference, Settings, read_statistics
from kd.analysis.curves import Curves, read_curves
from kd.analysis.frontier import worth_more
from kd.analysis.measures import VALIDATION, Weights
from kd.analysis.placed import MethodRecord
from kd.analysis.rows import RunRow
from kd.analysis.runs import by_group, grouped, read_runs
from kd.reporting import text
from kd.reporting.caption import BASELINE
from kd.reporting.dots import PERCENT, dots, level, limits_of, mean_of, reading, row_places, rows_of
from kd.reporting.layout import FIGURE_FORMATS, FIGURES, RANKS, figure_name
from kd.reporting.rank_diagram import rank_diagram
from kd.reporting.style import (
    COLUMN,
    GREY,
    SMALL,
    TEXT,
    Look,
    headed,
    looks,
    new_figure,
    place_panels,
    save,
    settle,
    styled,
    wrapped_name,
)
from kd.schema.config import Reporting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WEIGHTS = {"best": "validation-selected weights", "last": "last-epoch weights"}
PANEL, PANEL_GAP = 0.54, 0.34
"""Inches: how high the curves of one method are, and what stands between two of them."""
STRIP = 0.3
"""Of the height of the curves: what stays free below them in every panel for a number."""

Scored = TypeVar("Scored", MethodRecord, Difference)


@dataclass(frozen=True)
class Group:
    """What the figures of one data set and pair are drawn from."""

    dataset: str
    pair: str
    methods: list[MethodRecord]
    """Records of statistics.json, students only, best mean first; those without a mean are left out."""
    teachers: list[MethodRecord]
    differences: list[Difference]
    """Paired differences to the first reference that there is."""
    runs: Mapping[str, list[RunRow]]
    """The finished runs of each method."""
    looks: Mapping[str, Look]
    settings: Settings
    curves: Mapping[str, Mapping[str, Curves]] = field(default_factory=dict)
    """By method and column of metrics.csv."""

    @property
    def key(self) -> tuple[str, str]:
        """Return data set and pair."""
        return self.dataset, self.pair

    @property
    def place(self) -> str:
        """Return where the figures' numbers come from."""
        return f"{taught(self.pair)}, on {self.dataset}."

    @property
    def interval(self) -> str:
        """Return what an error bar is."""
        return f"{100 * self.settings.confidence:.6g}% t interval"

    def held_against(self, methods: Container[str]) -> str | None:
        """Return which of some methods the others are shown beside: plain cross-entropy, or else a reference."""
        bases = [one.method for one in self.methods if one.base_method == BASELINE]
        known = [name for name in (BASELINE, *self.settings.references, *sorted(bases)) if name in methods]
        return min(known, key=lambda name: name not in bases, default=None)

    @property
    def used(self) -> list[Look]:
        """Return the looks of the methods that are drawn."""
        return [self.looks[one.method] for one in self.methods]


def taught(pair: str) -> str:
    """Return in words who teaches whom in a pair."""
    teachers, _, student = pair.rpartition("--")
    names = text.listing(teachers.split("+")) if teachers not in {"", "none"} else ""
    return f"Student {student}, taught by {names}" if names else f"Student {student}"


def accuracy_label(weights: Weights) -> str:
    """Return the label of an axis of what methods are compared by."""
    return measures.compared_by(weights).title


def write_figures(
    runs_csv: str | Path,
    statistics_json: str | Path,
    curves_csv: str | Path,
    folder: str | Path,
    report: Reporting,
    families: Mapping[str, str],
) -> None:
    """Write every figure of every (dataset, pair) as PNG and PDF, named by `layout.figure_files`.

    `families` says whose colour a base method has. A figure for which no run has finished says so, so that the files
    exist in any case.
    """
    draw: dict[str, Callable[[Group], Figure]] = {
        "learning_curves": learning_curves,
        "accuracy": accuracy,
        "differences": differences,
        "cost": cost,
    }
    assert tuple(draw) == FIGURES
    with styled():
        groups = load_groups(runs_csv, statistics_json, curves_csv, report, families)
        for group in groups:
            for name in FIGURES:
                _save(draw[name](group), Path(folder), (group.dataset, group.pair, name))
        if len(groups) > 1:
            _save(rank_diagram(read_statistics(statistics_json).across, groups[0].looks), Path(folder), RANKS)


def _save(figure: "Figure", folder: Path, names: tuple[str, str, str]) -> None:
    settle(figure)
    for ending in FIGURE_FORMATS:
        save(figure, folder / figure_name(*names, ending))


def load_groups(
    runs_csv: str | Path,
    statistics_json: str | Path,
    curves_csv: str | Path,
    report: Reporting,
    families: Mapping[str, str],
) -> list[Group]:
    """Return the groups in the order of the runs; a method looks the same in all of them."""
    statistics = read_statistics(statistics_json)
    differences = by_group(statistics.differences)
    runs = by_group(row for row in read_runs(runs_csv) if row.status == "ok")
    curves = read_curves(curves_csv)
    students = {one.method: one.base_method for one in statistics.methods if one.role == "student"}
    look = looks(students, families)
    found = [
        _group(runs.get(key, []), methods, differences.get(key, []), look, statistics.settings, report)
        for key, methods in by_group(statistics.methods).items()
    ]
    own = [{one.method: curves.get((*group.key, one.method), {}) for one in group.methods} for group in found]
    return [replace(group, curves=by_method) for group, by_method in zip(found, own, strict=True)]


def _group(
    runs: Sequence[RunRow],
    methods: Sequence[MethodRecord],
    found: Sequence[Difference],
    look: Mapping[str, Look],
    settings: Settings,
    report: Reporting,
) -> Group:
    dataset, pair = methods[0].group
    scored = [one for one in methods if one.mean is not None]
    reference = next((name for name in report.references if any(one.reference == name for one in found)), None)
    return Group(
        dataset=dataset,
        pair=pair,
        methods=best_first([one for one in scored if one.role == "student"], settings),
        teachers=[one for one in scored if one.role == "teacher"],
        differences=[one for one in found if one.reference == reference and one.mean is not None],
        runs=grouped(runs, lambda row: row.method),
        looks=look,
        settings=settings,
    )


def best_first(records: Sequence[Scored], settings: Settings) -> list[Scored]:
    """Return records with a mean, the best first."""
    gain = measures.compared_by(settings.weights).gain
    return sorted(records, key=lambda one: (-gain(mean_of(one)), one.method))


def accuracy(group: Group) -> "Figure":
    """Return the dot plot of accuracies: mean, t interval, every seed; each teacher in a row of its own on top."""
    if not group.methods:
        return _nothing(group, "No run has finished.")
    names = [f"teacher {one.student}" for one in group.teachers] + [one.method for one in group.methods]
    figure, (axes,) = rows_of(names)
    places, _ = row_places([wrapped_name(name) for name in names])
    limits = _with_teachers(group)
    count = len(group.teachers)
    dots(axes, group.methods, places[count:], limits, group.looks)
    for teacher, place in zip(group.teachers, places[:count], strict=True):
        level(axes, mean_of(teacher), place, f"{mean_of(teacher):.1f}", limits)
    axes.set_xlabel(accuracy_label(group.settings.weights))
    dashed = " Diamond and dashed line: a teacher's mean." if count else ""
    notes = [
        group.place,
        f"{WEIGHTS[group.settings.weights].capitalize()}. {reading(group.methods, limits, group.interval)}{dashed}",
    ]
    headed(figure, "Test accuracy of each method", notes, group.used)
    return figure


def _with_teachers(group: Group) -> tuple[float, float]:
    """Return the range of the methods' accuracies, with room for teachers that are not far from it."""
    low, high = limits_of([one.values for one in group.methods], group.methods, PERCENT)
    span = high - low
    means = [mean_of(teacher) for teacher in group.teachers]
    near = [mean for mean in means if low - span / 2 < mean < high + span / 2]
    return (
        max(min([low, *(mean - 0.03 * span for mean in near)]), PERCENT[0]),
        min(max([high, *(mean + 0.03 * span for mean in near)]), PERCENT[1]),
    )


def differences(group: Group) -> "Figure":
    """Return the dot plot of paired differences to the first reference, sorted, with t intervals and every seed."""
    if not group.differences:
        return _nothing(group, "No method could be paired with a reference.")
    ordered = best_first(group.differences, group.settings)
    names = [one.method for one in ordered]
    figure, (axes,) = rows_of(names)
    axes.axvline(0, color="black", linewidth=0.7, zorder=1)
    limits = limits_of([[0.0], *(one.values for one in ordered)], ordered)
    dots(axes, ordered, row_places([wrapped_name(name) for name in names])[0], limits, group.looks)
    reference = ordered[0].reference
    axes.set_xlabel(f"Test top-1 minus that of {reference} (points)")
    notes = [
        group.place,
        f"Each seed is compared with the same seed of {reference}. {reading(ordered, limits, group.interval)}",
    ]
    headed(figure, f"What each method adds to {reference}", notes, [group.looks[one.method] for one in ordered])
    return figure


def cost(group: Group) -> "Figure":
    """Return the methods from cheap to dear: what each costs at the left, how accurate it is at the right.

    Cost is counted in FLOPs, teachers and pre-stages included: seconds would compare methods only where nothing else
    ran on the machine.
    """
    known = [(flops, one) for one in group.methods if (flops := _total_flops(group, one)) is not None]
    if not known:
        return _nothing(group, "No finished run has a known cost.")
    known.sort(key=lambda pair: (pair[0], -mean_of(pair[1]), pair[1].method))
    methods = [one for _, one in known]
    figure, (left, right) = rows_of([one.method for one in methods], panels=2)
    places, edges = row_places([wrapped_name(one.method) for one in methods])
    _costs(left, [flops for flops, _ in known], places, [group.looks[one.method].color for one in methods])
    limits = limits_of([one.values for one in methods], methods, PERCENT)
    dots(right, methods, places, limits, group.looks)
    right.set_xlabel(accuracy_label(group.settings.weights))
    worth = _frontier(right, [mean_of(one) for one in methods], edges, group.settings.rope)
    for label, best in zip(left.get_yticklabels(), worth, strict=True):
        label.set_fontweight("bold" if best else "normal")
    headed(
        figure,
        "Accuracy for the compute",
        _cost_notes(group, methods, limits),
        [group.looks[one.method] for one in methods],
    )
    return figure


def _cost_notes(group: Group, methods: Sequence[MethodRecord], limits: tuple[float, float]) -> list[str]:
    unknown = [one.method for one in group.methods if one not in methods]
    more = f"over {group.settings.rope:g} points" if group.settings.rope else "a mean"
    left_out = f" Cost unknown: {text.listing(unknown)}." if unknown else ""
    return [
        group.place,
        f"Cheapest first; bold and dotted line: {more} above all cheaper bold ones. "
        f"{reading(methods, limits, group.interval)}{left_out}",
    ]


def _total_flops(group: Group, record: MethodRecord) -> float | None:
    """Return the mean over the finished seeds, None where it is not known or nothing."""
    rows = group.runs.get(record.method, [])
    parts = [row.number(part) for row in rows for part in measures.TOTAL_FLOPS.parts]
    known = [part for part in parts if part is not None]
    return sum(known) / len(rows) if len(known) == len(parts) and sum(known) > 0 else None


def _costs(axes: "Axes", flops: Sequence[float], places: Sequence[float], colors: Sequence[str]) -> None:
    """Draw costs as lines from the left edge; on a logarithmic axis where they span more than tenfold."""
    if max(flops) > 10 * min(flops):
        axes.set_xscale("log")
        start = min(flops) / 2
    else:
        start = 0.0
    axes.set_xlim(start, max(flops) * 1.12)
    axes.hlines(places, start, flops, color=colors, linewidth=1.0)
    axes.scatter(flops, places, s=9, color=colors, zorder=3, clip_on=False)
    _counts(axes.xaxis, max(flops) > 10 * min(flops))
    axes.set_xlabel("Training FLOPs, all told")


def _counts(axis: "Axis", logarithmic: bool) -> None:
    """Give an axis of counts few numbers, with SI prefixes."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(numticks=4) if logarithmic else MaxNLocator(nbins=3))
    axis.set_major_formatter(lambda value, place: text.quantity(value))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _frontier(axes: "Axes", means: Sequence[float], edges: Sequence[float], rope: float) -> list[bool]:
    """Draw the mean of the last row that was worth its compute as stairs, and return which rows are."""
    worth = worth_more(means, rope)
    best = np.maximum.accumulate([mean if raises else -np.inf for mean, raises in zip(means, worth, strict=True)])
    axes.stairs(
        best, edges, orientation="horizontal", baseline=None, color=GREY, linewidth=0.8, linestyle=":", zorder=1
    )
    return worth


def learning_curves(group: Group) -> "Figure":
    """Return validation accuracy over epochs, a panel a method, with the baseline's behind each for comparison."""
    named = [(one.method, group.curves.get(one.method, {}).get(VALIDATION.column)) for one in group.methods]
    found = [(method, curves) for method, curves in named if curves is not None]
    if not found:
        return _nothing(group, "No finished run has left a learning curve.")
    columns = min(len(found), 4 if len(found) > 9 else 3)
    lines = -(-len(found) // columns)
    titles = [wrapped_name(method, 13 if columns == 4 else 18) for method, _ in found]
    gap = PANEL_GAP + 0.11 * max(title.count("\n") for title in titles)
    figure = new_figure(COLUMN, lines * (PANEL + gap) + 0.2)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    beside = group.held_against(dict(found))
    behind = dict(found).get(beside or "")
    floor = _fit([curves for _, curves in found], grid[0, 0])
    below = {method: bool(np.nanmin(curves.mean) < floor) for method, curves in found}
    for axes, (method, curves), title in zip(grid.flat, found, titles, strict=False):
        dashed = None if method == beside else behind
        _draw(axes, curves, group.looks[method], dashed)
        _fit_epochs(axes, [one for one in (curves, dashed) if one is not None])
        if below[method]:
            axes.plot(0.02, 0.0, marker=11, markersize=3, color=GREY, transform=axes.transAxes, clip_on=False)
        axes.set_title(title, pad=2, fontsize=SMALL)
        axes.tick_params(labelbottom=True, pad=1.5)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    against = f" Dashed: {beside}; shaded, and in points at the end: the difference to it." if behind else ""
    cut = " Triangle: earlier epochs are below the axis." if any(below.values()) else ""
    lengths = {curves.epochs[-1] for _, curves in found}
    own = " Trainings differ in length: mind each panel's epochs." if len(lengths) > 1 else ""
    notes = [group.place, f"Line: mean of the seeds; thin lines: the lowest and the highest seed.{against}{cut}{own}"]
    head, foot = headed(figure, "Validation top-1 (%) over epochs", notes, [group.looks[method] for method, _ in found])
    place_panels(figure, (0.3, 0.12, foot + 0.2, head + gap - 0.2), (0.12, gap))
    return figure


def _draw(axes: "Axes", curves: Curves, look: Look, behind: Curves | None) -> None:
    if behind is not None:
        axes.plot(behind.epochs, behind.mean, color=GREY, linewidth=0.8, linestyle=(0, (3, 1.5)), zorder=2)
        kept = np.interp(curves.epochs, behind.epochs, behind.mean)  # where it has ended it stays
        axes.fill_between(curves.epochs, curves.mean, kept, color=look.color, alpha=0.18, linewidth=0)
        gained = text.signed(round(float(curves.mean[-1] - behind.mean[-1]), 1) + 0.0, 1)
        axes.text(0.97, 0.03, gained, transform=axes.transAxes, ha="right", va="bottom", fontsize=SMALL)
    marker = look.marker if len(curves.epochs) == 1 else None  # a line through one epoch is invisible
    for edge in (curves.low, curves.high):
        axes.plot(curves.epochs, edge, color=look.color, linewidth=0.35, alpha=0.7, zorder=3)
    axes.plot(curves.epochs, curves.mean, color=look.color, marker=marker, markersize=3, zorder=4)


def _fit(curves: Sequence[Curves], axes: "Axes") -> float:
    """Fit the shared axis of accuracy to all curves from the second half of the trainings: they differ by their ends.

    Return where it begins.
    """
    from matplotlib.ticker import MaxNLocator

    low = min(float(np.nanmin(one.low[len(one.low) // 2 :])) for one in curves)
    high = max(float(np.nanmax(one.high)) for one in curves)
    room = max(0.06 * (high - low), 0.5)
    low, high = max(low - room, PERCENT[0]), min(high + room, PERCENT[1])
    axes.set_ylim(low - STRIP * (high - low), high)
    axes.set_yticks(
        [tick for tick in MaxNLocator(nbins=3, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    )
    for one in axes.figure.axes:
        one.spines["left"].set_bounds(low, high)
    return low


def _fit_epochs(axes: "Axes", drawn: Sequence[Curves]) -> None:
    """Fit a panel's epochs to what is drawn in it: one long training among short ones would squeeze them all."""
    from matplotlib.ticker import MaxNLocator

    first, last = min(one.epochs[0] for one in drawn), max(one.epochs[-1] for one in drawn)
    room = 0.04 * max(last - first, 1)
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True, steps=[1, 2, 5, 10]))


def _nothing(group: Group, sentence: str) -> "Figure":
    figure = new_figure(COLUMN, 0.5)
    figure.text(0.5, 0.4, sentence, ha="center", va="center", color=GREY, fontsize=TEXT)
    headed(figure, "Nothing to draw", [group.place])
    return figure

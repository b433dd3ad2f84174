"""The figures of an experiment: learning curves, accuracy, paired differences, accuracy against cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kd.analysis import measures
from kd.analysis.compared import Difference, MethodRecord, Settings, read_statistics
from kd.analysis.curves import Curves, read_curves
from kd.analysis.measures import CURVES, VALIDATION, Curve, Weights
from kd.analysis.rows import RunRow
from kd.analysis.runs import by_group, grouped, read_runs
from kd.reporting.dots import dots, limits_of, mean_of, rows_of
from kd.reporting.labels import place_labels
from kd.reporting.layout import FIGURE_FORMATS, FIGURES, figure_name
from kd.reporting.style import GREY, LINES, Look, looks, new_figure, place_panels, save, settle, styled
from kd.schema.config import Reporting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_PANEL = 7  # more methods than this get a panel each for their learning curves
WEIGHTS = {"best": "validation-selected weights", "last": "last-epoch weights"}

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

    @property
    def title(self) -> str:
        """Return the heading of this group's figures."""
        return f"{self.dataset}, {self.pair}"

    @property
    def accuracy(self) -> str:
        """Return the label of an accuracy axis."""
        return accuracy_label(self.settings.weights)

    @property
    def interval(self) -> str:
        """Return what an error bar is."""
        return f"{self.settings.confidence:.0%} t interval"


def accuracy_label(weights: Weights) -> str:
    """Return the label of an axis of what methods are compared by."""
    return f"{measures.compared_by(weights).title}, {WEIGHTS[weights]}"


def write_figures(runs_csv: str | Path, statistics_json: str | Path, folder: str | Path, report: Reporting) -> None:
    """Write every figure of every (dataset, pair) as PNG and PDF, named by `layout.figure_files`.

    A figure for which no run has finished says so, so that the files exist in any case.
    """
    draw: dict[str, Callable[[Group], Figure]] = {
        "learning_curves": learning_curves,
        "accuracy": accuracy,
        "differences": differences,
        "cost": cost,
    }
    assert tuple(draw) == FIGURES
    with styled():
        for group in load_groups(runs_csv, statistics_json, report):
            for name in FIGURES:
                figure = draw[name](group)
                settle(figure)
                for ending in FIGURE_FORMATS:
                    save(figure, Path(folder) / figure_name(group.dataset, group.pair, name, ending))


def load_groups(runs_csv: str | Path, statistics_json: str | Path, report: Reporting) -> list[Group]:
    """Return the groups in the order of the runs; a method looks the same in all of them."""
    statistics = read_statistics(statistics_json)
    differences = by_group(statistics.differences)
    runs = by_group(row for row in read_runs(runs_csv) if row.status == "ok")
    look = looks({one.method: one.base_method for one in statistics.methods if one.role == "student"})
    return [
        _group(runs.get(key, []), methods, differences.get(key, []), look, statistics.settings, report)
        for key, methods in by_group(statistics.methods).items()
    ]


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
    """Return the dot plot of accuracies: mean, t interval, every seed; teachers as dashed lines."""
    if not group.methods:
        return _nothing(group, "No run has finished.")
    figure, axes = rows_of(group.title, [one.method for one in group.methods])
    limits = limits_of([one.values for one in group.methods], group.methods)
    span = limits[1] - limits[0]
    means = [mean_of(teacher) for teacher in group.teachers]
    near = [mean for mean in means if limits[0] - span / 2 < mean < limits[1] + span / 2]
    limits = (
        min([limits[0], *(mean - 0.03 * span for mean in near)]),
        max([limits[1], *(m + 0.03 * span for m in near)]),
    )
    dots(axes, group.methods, limits, group.looks, group.interval)
    # room below the last row for the teachers' names
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom + 0.35 * len(group.teachers) * (1 if bottom > top else -1), top)
    for index, teacher in enumerate(group.teachers):
        _teacher_line(axes, teacher, index, limits)
    axes.set_xlabel(group.accuracy)
    return figure


def _teacher_line(axes: "Axes", teacher: MethodRecord, index: int, limits: tuple[float, float]) -> None:
    """Draw a teacher's mean, or say at the edge how far out it lies where it would squeeze the methods."""
    mean = mean_of(teacher)
    label = f"teacher {teacher.student} {mean:.1f}"
    right = mean > sum(limits) / 2
    inside = limits[0] <= mean <= limits[1]
    if inside:
        axes.axvline(mean, color="black", linewidth=1, linestyle=LINES[1 + index % 3], zorder=1)
    else:
        label = f"{label} →" if right else f"← {label}"
    axes.annotate(
        label,
        (mean if inside else limits[int(right)], 0.0),
        xytext=(-4 if right else 4, 3 + 10 * index),
        textcoords="offset points",
        xycoords=("data", "axes fraction"),
        ha="right" if right else "left",
        fontsize=7,
    )


def differences(group: Group) -> "Figure":
    """Return the dot plot of paired differences to the first reference, sorted, with t intervals and every seed."""
    if not group.differences:
        return _nothing(group, "No method could be paired with a reference.")
    ordered = best_first(group.differences, group.settings)
    figure, axes = rows_of(group.title, [one.method for one in ordered])
    axes.axvline(0, color="black", linewidth=1, zorder=1)
    limits = limits_of([[0.0], *(one.values for one in ordered)], ordered)
    dots(axes, ordered, limits, group.looks, group.interval)
    axes.set_xlabel(f"Test top-1 minus {ordered[0].reference} with the same seed (percentage points)")
    return figure


def cost(group: Group) -> "Figure":
    """Return accuracy against the seconds a method costs in all, teachers and pre-stage included."""
    points = [(total, one) for one in group.methods if (total := _total_seconds(group, one)) is not None]
    if not points:
        return _nothing(group, "No finished run has a known cost.")
    figure = new_figure(6.8, 4.6 + 0.04 * len(points))
    axes = figure.add_subplot()
    seconds = np.array([value for value, _ in points])
    unit, name = _unit(float(seconds.max()))
    x = seconds / unit
    y = np.array([mean_of(one) for _, one in points])
    _cost_axes(axes, x, y, group)
    axes.set_xlabel(f"Total training time, teachers and pre-stage included ({name})")
    for one, place in zip((one for _, one in points), x, strict=True):
        look = group.looks[one.method]
        if _fits(one, axes.get_ylim()):
            ends = np.array([one.low, one.high])
            axes.plot([place, place], ends, color=look.color, linewidth=0.9, alpha=0.55, zorder=2)
        axes.plot(place, mean_of(one), look.marker, color=look.color, markersize=7, mec="white", mew=0.6, zorder=4)
    _frontier(axes, x, y)
    place_labels(figure, axes, x, y, [one.method for _, one in points])
    return figure


def _total_seconds(group: Group, record: MethodRecord) -> float | None:
    """Return the mean over the finished seeds, None where it is not known or nothing."""
    rows = group.runs.get(record.method, [])
    parts = [row.number(part) for row in rows for part in measures.TOTAL_SECONDS.parts]
    known = [part for part in parts if part is not None]
    return sum(known) / len(rows) if len(known) == len(parts) and sum(known) > 0 else None


def _unit(longest: float) -> tuple[float, str]:
    return (1, "s") if longest < 120 else (60, "min") if longest < 7200 else (3600, "h")


def _cost_axes(axes: "Axes", x: np.ndarray, y: np.ndarray, group: Group) -> None:
    """Set scale and limits with room for labels; the axis is logarithmic when costs span more than tenfold."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if x.max() > 10 * x.min():
        axes.set_xscale("log")
        axes.set_xlim(x.min() / 1.5, x.max() * 2.2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = max(x.max() - x.min(), 0.1 * x.max())
        axes.set_xlim(x.min() - 0.12 * room, x.max() + 0.25 * room)
    room = max(y.max() - y.min(), 0.5)
    axes.set_ylim(y.min() - 0.25 * room, y.max() + 0.25 * room)
    axes.set_title(group.title)
    if any(_fits(one, axes.get_ylim()) for one in group.methods):
        axes.set_title(f"line: {group.interval} where it fits", loc="right", fontsize=7, color=GREY)
    axes.set_ylabel(group.accuracy)


def _fits(record: MethodRecord, limits: tuple[float, float]) -> bool:
    """Return whether there is an interval that stays in the frame: wider ones would only cross everything out."""
    if record.low is None or record.high is None:
        return False
    return limits[0] <= record.low and record.high <= limits[1]


def _frontier(axes: "Axes", x: np.ndarray, y: np.ndarray) -> None:
    """Draw the steps that no method beats in both accuracy and cost."""
    order = np.lexsort((-y, x))
    best = np.maximum.accumulate(y[order])
    axes.step(x[order], best, where="post", color=GREY, linewidth=0.8, linestyle=":", zorder=1)


def learning_curves(group: Group) -> "Figure":
    """Return validation accuracy over epochs, mean and range over seeds: one panel, or one a method when many."""
    found = [(one.method, curves) for one in group.methods if (curves := _curves(group, one.method, VALIDATION))]
    if not found:
        return _nothing(group, "No finished run has left a learning curve.")
    return _curves_together(group, found) if len(found) <= ONE_PANEL else _curves_apart(group, found)


def _curves(group: Group, method: str, curve: Curve) -> Curves | None:
    return read_curves([row.path for row in group.runs.get(method, [])], curve.column)


def _draw(axes: "Axes", curves: Curves, look: Look, label: str | None) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = look.marker if len(curves.epochs) == 1 else None  # a line through one epoch is invisible
    axes.plot(curves.epochs, curves.mean, color=look.color, linestyle=look.line, marker=marker, label=label, zorder=3)
    axes.fill_between(curves.epochs, curves.low, curves.high, color=look.color, alpha=0.15, linewidth=0, zorder=2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _curves_together(group: Group, found: Sequence[tuple[str, Curves]]) -> "Figure":
    figure = new_figure(7.2, 4.0)
    axes = figure.add_subplot()
    for method, curves in found:
        _draw(axes, curves, group.looks[method], method)
    axes.set_title(f"{group.title} (band: range over seeds)")
    axes.set_xlabel("Epoch")
    axes.set_ylabel(VALIDATION.label)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")  # best mean on top
    return figure


def _curves_apart(group: Group, found: Sequence[tuple[str, Curves]]) -> "Figure":
    """Return a panel a method, with ce and kd in grey behind each for comparison."""
    columns = 4
    lines = -(-len(found) // columns)
    height = 0.8 + 1.55 * lines
    figure = new_figure(8.4, height)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    behind = [(name, curves) for name, curves in found if name in {"ce", "kd"}]
    for axes, (method, curves) in zip(grid.flat, found, strict=False):
        for name, other in behind:
            axes.plot(other.epochs, other.mean, color=GREY, linewidth=0.9, linestyle="-" if name == "kd" else ":")
        _draw(axes, curves, replace(group.looks[method], line="-"), None)
        axes.set_title(method, fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(found) - columns, 0) : len(found)]:  # the lowest panel of each column
        axes.tick_params(labelbottom=True)
    legend = ", grey: kd (solid) and ce (dotted)" if behind else ""
    figure.suptitle(f"{group.title} (band: range over seeds{legend})", fontsize=9, y=1 - 0.08 / height)
    figure.supxlabel("Epoch", fontsize=9, y=0.08 / height)
    figure.supylabel(VALIDATION.label, fontsize=9, x=0.01)
    place_panels(figure, (0.6, 0.1, 0.5, 0.5), (0.16, 0.4))
    return figure


def method_curves(group: Group, method: str) -> "Figure | None":
    """Return the curves of one method side by side, None without any."""
    found = [(curve.label, curves) for curve in CURVES if (curves := _curves(group, method, curve))]
    if not found:
        return None
    figure = new_figure(6.0, 2.0)
    for axes, (label, curves) in zip(figure.subplots(1, len(found), squeeze=False).flat, found, strict=True):
        _draw(axes, curves, group.looks[method], None)
        axes.set_title(label, fontsize=8)
        axes.set_xlabel("Epoch", fontsize=8)
        axes.tick_params(labelsize=7)
    place_panels(figure, (0.5, 0.15, 0.42, 0.25), (0.5, 0.0))
    return figure


def _nothing(group: Group, sentence: str) -> "Figure":
    figure = new_figure(6.4, 2.0)
    figure.text(0.5, 0.5, sentence, ha="center", va="center", color=GREY)
    figure.suptitle(group.title, fontsize=10)
    return figure

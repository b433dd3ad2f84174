"""The figures of a benchmark's report, one a part."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd.reporting.style import COLUMN, FIXED, GREY, LINES, MARKERS, PALETTE, new_figure, save, settle, styled
from kd.speed.settings import LOOPS, STEP_PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

Results = Mapping[str, Any]

AXES = {
    "train_images": "training images",
    "classes": "classes",
    "batch_size": "batch size",
    "negatives": "negatives an image",
}
COLORS = {"reference": GREY, "engine": FIXED["kd"]}
LABELS = {"reference": "reference loop", "engine": "engine"}
ROW = 0.2  # inches that a row of bars takes
WIDE = 2 * COLUMN
"""Inches: both columns of a paper."""


def draw_speed(results: Results, path: Path) -> None:
    """Draw how much faster the engine is by method, and the parts of both loops' steps."""
    methods = {name: found for name, found in results.items() if "failed" not in found}
    with styled():
        figure = new_figure(WIDE, 1.4 + ROW * len(methods))
        left, right = figure.subplots(1, 2, sharey=True)
        _ranges(left, {name: found["ratio"]["own"] for name, found in methods.items()}, "engine / reference loop")
        for offset, loop in zip((-0.2, 0.2), LOOPS, strict=True):
            _stacks(right, list(methods.values()), loop, [index + offset for index in range(len(methods))])
        right.set_xlabel("ms a step (upper bar: reference loop, lower: engine)")
        handles, labels = right.get_legend_handles_labels()
        figure.legend(
            handles[: len(STEP_PARTS)], labels[: len(STEP_PARTS)], loc="outside upper right", ncols=len(STEP_PARTS)
        )
        settle(figure)
        save(figure, path)


def draw_switches(results: Results, path: Path) -> None:
    """Draw what each optimisation gains."""
    with styled():
        figure = new_figure(WIDE, 0.9 + ROW * len(results))
        _ranges(figure.subplots(), {name: one["gain"]["own"] for name, one in results.items()}, "speed with / without")
        settle(figure)
        save(figure, path)


def draw_contrast(results: Results, path: Path) -> None:
    """Draw the cost of a step of contrastive distillation beside a plain one's."""
    named = {
        f"{one['negatives']:,} negatives,\n{one['images']:,} images": one["ratio"]["own"] for one in results.values()
    }
    with styled():
        figure = new_figure(1.3 * COLUMN, 0.9 + ROW * len(named))
        _ranges(figure.subplots(), named, "cost of a CRD step / cost of a KD step")
        settle(figure)
        save(figure, path)


def _numbered(axis: "Axis", multiples: Sequence[float]) -> None:
    """Put a logarithmic axis' numbers at these multiples of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=multiples))
    axis.set_major_formatter(lambda value, place: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _ranges(axes: "Axes", ratios: Mapping[str, Mapping[str, float]], label: str) -> None:
    """Draw medians with their smallest and largest, one row each, from a line at 1.

    A row far out would squeeze all others: it ends in an arrow at the edge, beside its numbers.
    """
    highest = fence([one["median"] for one in ratios.values()])
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.set_ylim(len(ratios) - 0.5, -0.5)
    inside = [one for one in ratios.values() if one["median"] <= highest]
    right = max(1.1, *(1.03 * min(one["max"], 1.1 * highest) for one in inside))
    axes.set_xlim(min(0.9, *(0.97 * one["min"] for one in inside)), right)
    for row, one in enumerate(ratios.values()):
        if one["median"] > highest:
            told = f"{one['median']:.2g} ({one['min']:.2g} to {one['max']:.2g}) →"
            axes.text(right, row, told, ha="right", va="center", color=COLORS["engine"])
            continue
        reach = [[one["median"] - one["min"]], [one["max"] - one["median"]]]
        axes.errorbar([one["median"]], [row], xerr=reach, fmt="o", color=COLORS["engine"], markersize=4, capsize=2)
    axes.set_xlabel(label)


def fence(ratios: Sequence[float]) -> float:
    """Return the largest ratio that is not far out: three times the quartiles' distance above them, as factors."""
    low, high = np.quantile(np.log(ratios), (0.25, 0.75))
    return float(np.exp(high + 3 * max(high - low, np.log(1.1))))


def _stacks(axes: "Axes", methods: Sequence[Results], loop: str, rows: Sequence[float]) -> None:
    start = [0.0] * len(methods)
    for part, color in zip(STEP_PARTS, PALETTE, strict=False):
        widths = [1e3 * found[loop]["seconds_by_part"][part] for found in methods]
        axes.barh(rows, widths, 0.36, left=start, color=color, label=part)
        start = [a + b for a, b in zip(start, widths, strict=True)]


def draw_scale(results: Results, path: Path) -> None:
    """Draw images a second of both loops against everything that was grown."""
    curves = list(results.values())
    keys = list(dict.fromkeys(curve["axis"] for curve in curves))
    methods = list(dict.fromkeys(curve["method"] for curve in curves))
    with styled():
        figure = new_figure(min(WIDE, 2.4 * len(keys) + 0.6), 2.8)
        panels = dict(zip(keys, figure.subplots(1, len(keys), squeeze=False, sharey=True)[0], strict=True))
        for curve in curves:
            look = methods.index(curve["method"])
            for loop in LOOPS:
                panels[curve["axis"]].plot(
                    [point["x"] for point in curve["points"]],
                    [point[loop]["images_per_second"] for point in curve["points"]],
                    color=COLORS[loop],
                    marker=MARKERS[look],
                    linestyle=LINES[look],
                    label=f"{curve['method']}, {LABELS[loop]}",
                )
        for key, panel in panels.items():
            _counted(
                panel, sorted({point["x"] for curve in curves if curve["axis"] == key for point in curve["points"]})
            )
            panel.set_xlabel(AXES[key])
        first = panels[keys[0]]
        first.set_yscale("log")
        _numbered(first.yaxis, (1, 2, 5))
        first.set_ylabel("images a second")
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", ncols=4)
        settle(figure)
        save(figure, path)


def _counted(axes: "Axes", values: Sequence[int]) -> None:
    """Put a logarithmic axis' ticks at the values that were measured."""
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value // 1000}k" if value >= 1000 else str(value) for value in values])
    axes.minorticks_off()


def draw_runs(results: Results, path: Path) -> None:
    """Draw how many runs an hour there are with several side by side."""
    counts = [int(count) for count in results]
    gains = [one["gain"]["own"] for one in results.values()]
    medians = [gain["median"] for gain in gains]
    reach = [[g["median"] - g["min"] for g in gains], [g["max"] - g["median"] for g in gains]]
    with styled():
        figure = new_figure(COLUMN, 2.5)
        axes = figure.subplots()
        axes.axhline(1, color=GREY, linewidth=1)
        axes.errorbar(counts, medians, yerr=reach, color=COLORS["engine"], marker="o", capsize=2)
        _counted(axes, counts)
        axes.set_xlabel("runs side by side in one process")
        axes.set_ylabel("runs an hour / one by one")
        settle(figure)
        save(figure, path)


def draw_accuracy(results: Results, path: Path) -> None:
    """Draw the accuracy of every seed and each loop's mean."""
    with styled():
        figure = new_figure(min(WIDE, 1.0 + 2.6 * len(results)), 2.6)
        panels = figure.subplots(1, len(results), squeeze=False)[0]
        for panel, (method, found) in zip(panels, results.items(), strict=True):
            for place, (loop, top1) in enumerate(found["top1"].items()):
                panel.plot([place] * len(top1), top1, "o", color=COLORS["reference" if place == 0 else "engine"])
                panel.plot([place - 0.2, place + 0.2], [found["summary"][loop]["mean"]] * 2, color="black")
            panel.set_xticks(range(len(found["top1"])), [loop.replace(", ", "\n") for loop in found["top1"]])
            panel.set_xlim(-0.5, len(found["top1"]) - 0.5)
            panel.set_title(method)
        panels[0].set_ylabel("top-1 (%), a dot a seed")
        settle(figure)
        save(figure, path)


def draw_anchor(results: Results, path: Path) -> None:
    """Draw accuracy over seconds of training, a line a seed, and what was to be reached."""
    with styled():
        figure = new_figure(1.2 + 3.4 * len(results), 3.0)
        panels = figure.subplots(1, len(results), squeeze=False)[0]
        for panel, (name, found) in zip(panels, results.items(), strict=True):
            panel.axhline(found["target"], color=GREY, linewidth=1)
            for run in found["runs"]:
                panel.plot(run["seconds"], run["top1"], color=COLORS["engine"], marker="o", markersize=3)
            panel.set_title(name)
            panel.set_xlabel("seconds of training")
        panels[0].set_ylabel("validation top-1 (%), a line a seed")
        settle(figure)
        save(figure, path)


def draw_recipe(results: Results, path: Path) -> None:
    """Draw what a step of distillation costs an image on each pair, in both loops."""
    with styled():
        figure = new_figure(WIDE, 1.2 + ROW * len(results))
        axes = figure.subplots()
        for offset, loop in zip((-0.2, 0.2), LOOPS, strict=True):
            costs = [1e3 / found[loop]["images_per_second"]["own"]["median"] for found in results.values()]
            rows = [row + offset for row in range(len(results))]
            axes.barh(rows, costs, 0.36, color=COLORS[loop], label=LABELS[loop])
        axes.set_yticks(range(len(results)), list(results))
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.set_xlabel("ms an image, knowledge distillation")
        figure.legend(loc="outside upper right", ncols=2)
        settle(figure)
        save(figure, path)


DRAWN: dict[str, Callable[[Results, Path], None]] = {
    "speed": draw_speed,
    "switches": draw_switches,
    "contrast": draw_contrast,
    "scale": draw_scale,
    "runs": draw_runs,
    "accuracy": draw_accuracy,
    "anchor": draw_anchor,
    "recipe": draw_recipe,
}

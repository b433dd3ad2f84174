"""Dot plots: a row a method, with its mean, its interval and every seed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kd.reporting.style import GREY, Look, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.27  # inches a method takes

Record = dict[str, Any]


def rows_of(title: str, names: Sequence[str]) -> tuple["Figure", "Axes"]:
    """Return a figure with one row a method, the first on top."""
    figure = new_figure(6.4, 1.5 + ROW * len(names))
    axes = figure.add_subplot()
    name_rows(axes, names)
    axes.set_title(title)
    return figure, axes


def name_rows(axes: "Axes", names: Sequence[str]) -> None:
    """Give the axes one named row a method, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def limits_of(seeds: Sequence[Sequence[float]], records: Sequence[Record]) -> tuple[float, float]:
    """Return the range of the axis: all seeds, and of the intervals what does not dwarf them.

    With two seeds a t interval is thirteen standard errors wide: drawn in full it would hide every difference.
    """
    values = np.concatenate([np.asarray(one, dtype=np.float64) for one in seeds])
    low, high = float(values.min()), float(values.max())
    room = max(0.6 * (high - low), 0.5)
    lows = [one["low"] for one in records if one["low"] is not None] or [low]
    highs = [one["high"] for one in records if one["high"] is not None] or [high]
    margin = 0.04 * (high - low + room)
    return max(min(low, *lows), low - room) - margin, min(max(high, *highs), high + room) + margin


def dots(
    axes: "Axes",
    records: Sequence[Record | None],
    limits: tuple[float, float],
    looks: Mapping[str, Look],
    interval: str,
) -> None:
    """Draw mean, interval and seeds of each record on its row; an interval that leaves the axis ends in an arrow.

    `interval` says what a bar is; a row without record stays empty.
    """
    axes.set_xlim(*limits)
    drawn = [(row, record) for row, record in enumerate(records) if record is not None]
    for row, record in drawn:
        look = looks[record["method"]]
        spread = np.linspace(-0.18, 0.18, len(record["values"])) if len(record["values"]) > 1 else [0.0]
        axes.plot(record["values"], row + np.asarray(spread), ".", color=GREY, markersize=4, alpha=0.8, zorder=2)
        if record["low"] is not None:
            _bar(axes, row, record, limits, look)
        axes.plot(record["mean"], row, look.marker, color=look.color, markersize=6.5, mec="white", mew=0.6, zorder=4)
    barred = [record for _, record in drawn if record["low"] is not None]
    cut = any(not limits[0] <= one["low"] <= one["high"] <= limits[1] for one in barred)
    notes = [f"bar: {interval}"] * bool(barred) + ["grey: seeds"] + ["arrow: goes on outside"] * cut
    axes.set_title("; ".join(notes), loc="right", fontsize=7, color=GREY)


def _bar(axes: "Axes", row: int, record: Record, limits: tuple[float, float], look: Look) -> None:
    """Draw an interval on its row, with an arrow where it leaves the axis."""
    ends = [max(record["low"], limits[0]), min(record["high"], limits[1])]
    axes.plot(ends, [row, row], color=look.color, linewidth=1.6, zorder=3)
    inside = (record["low"] >= limits[0], record["high"] <= limits[1])
    for stays, end, arrow in zip(inside, ends, "<>", strict=True):
        mark = "|" if stays else arrow
        axes.plot(end, row, mark, color=look.color, markersize=6 if stays else 5, clip_on=False, zorder=3)

"""Dot plots: a row a method, with its mean, its interval and every seed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kd.reporting.style import GREY, Look, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.27  # inches a method takes


class Dotted(Protocol):
    """What a row is drawn from; a read-only property each, for records cannot be changed."""

    @property
    def method(self) -> str:
        """Return the method, whose look it has."""

    @property
    def values(self) -> list[float]:
        """Return the numbers of the seeds."""

    @property
    def mean(self) -> float | None:
        """Return their mean."""

    @property
    def low(self) -> float | None:
        """Return the lower end of its interval, None where there is none."""

    @property
    def high(self) -> float | None:
        """Return the upper end of its interval."""


def mean_of(record: Dotted) -> float:
    """Return the mean of a record that has one."""
    assert record.mean is not None, "methods without finished run are not drawn"
    return record.mean


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


def limits_of(seeds: Sequence[Sequence[float]], records: Sequence[Dotted]) -> tuple[float, float]:
    """Return the range of the axis: all seeds, and of the intervals what does not dwarf them.

    With two seeds a t interval is thirteen standard errors wide: drawn in full it would hide every difference.
    """
    values = np.concatenate([np.asarray(one, dtype=np.float64) for one in seeds])
    low, high = float(values.min()), float(values.max())
    room = max(0.6 * (high - low), 0.5)
    lows = [one.low for one in records if one.low is not None] or [low]
    highs = [one.high for one in records if one.high is not None] or [high]
    margin = 0.04 * (high - low + room)
    return max(min(low, *lows), low - room) - margin, min(max(high, *highs), high + room) + margin


def dots(
    axes: "Axes",
    records: Sequence[Dotted | None],
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
        look = looks[record.method]
        spread = np.linspace(-0.18, 0.18, len(record.values)) if len(record.values) > 1 else [0.0]
        axes.plot(record.values, row + np.asarray(spread), ".", color=GREY, markersize=4, alpha=0.8, zorder=2)
        if record.low is not None and record.high is not None:
            _bar(axes, row, (record.low, record.high), limits, look)
        axes.plot(mean_of(record), row, look.marker, color=look.color, markersize=6.5, mec="white", mew=0.6, zorder=4)
    bars = [(one.low, one.high) for _, one in drawn if one.low is not None and one.high is not None]
    cut = any(not limits[0] <= low <= high <= limits[1] for low, high in bars)
    notes = [f"bar: {interval}"] * bool(bars) + ["grey: seeds"] + ["arrow: goes on outside"] * cut
    axes.set_title("; ".join(notes), loc="right", fontsize=7, color=GREY)


def _bar(axes: "Axes", row: int, bar: tuple[float, float], limits: tuple[float, float], look: Look) -> None:
    """Draw an interval on its row, with an arrow where it leaves the axis."""
    low, high = bar
    ends = [max(low, limits[0]), min(high, limits[1])]
    axes.plot(ends, [row, row], color=look.color, linewidth=1.6, zorder=3)
    inside = (low >= limits[0], high <= limits[1])
    for stays, end, arrow in zip(inside, ends, "<>", strict=True):
        mark = "|" if stays else arrow
        axes.plot(end, row, mark, color=look.color, markersize=6 if stays else 5, clip_on=False, zorder=3)

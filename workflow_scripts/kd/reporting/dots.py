"""Dot plots: a row a method, with its mean, its interval and every seed."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kd.reporting.style import COLUMN, GREY, SMALL, Look, new_figure, plain_scale, wrapped_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.145  # inches a line of a name takes
ALL = (-np.inf, np.inf)
PERCENT = (0.0, 100.0)


class Bounded(Protocol):
    """What has an interval; a read-only property each, for records cannot be changed."""

    @property
    def low(self) -> float | None:
        """Return the lower end of its interval, None where there is none."""

    @property
    def high(self) -> float | None:
        """Return the upper end of its interval."""


class Dotted(Bounded, Protocol):
    """What a row is drawn from."""

    @property
    def method(self) -> str:
        """Return the method, whose look it has."""

    @property
    def values(self) -> list[float]:
        """Return the numbers of the seeds."""

    @property
    def mean(self) -> float | None:
        """Return their mean."""


def mean_of(record: Dotted) -> float:
    """Return the mean of a record that has one."""
    assert record.mean is not None, "methods without finished run are not drawn"
    return record.mean


def rows_of(names: Sequence[str], panels: int = 1) -> tuple["Figure", list["Axes"]]:
    """Return a figure with one row a name, the first on top, and its panels side by side."""
    written = [wrapped_name(name) for name in names]
    figure = new_figure(COLUMN, 0.45 + ROW * sum(name.count("\n") + 1 for name in written))
    axes = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    places, edges = row_places(written)
    axes[0].set_yticks(places, written)
    axes[0].set_ylim(edges[-1], edges[0])
    for one in axes:
        one.grid(axis="y", visible=False)
        one.tick_params(axis="y", length=0)
    return figure, axes


def row_places(names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Return the middle of each row and the edges between rows, in lines of text from the first one's middle."""
    edges = [-0.5]
    for name in names:
        edges.append(edges[-1] + name.count("\n") + 1)
    return [(above + below) / 2 for above, below in itertools.pairwise(edges)], edges


def limits_of(
    seeds: Sequence[Sequence[float]], records: Sequence[Bounded], bounds: tuple[float, float] = ALL
) -> tuple[float, float]:
    """Return the range of the axis, within bounds: all seeds, and of the intervals what does not dwarf them.

    With two seeds a t interval is thirteen standard errors wide: drawn in full it would hide every difference.
    """
    values = np.concatenate([np.asarray(one, dtype=np.float64) for one in seeds])
    low, high = float(values.min()), float(values.max())
    room = max(0.6 * (high - low), 0.5)
    lows = [one.low for one in records if one.low is not None] or [low]
    highs = [one.high for one in records if one.high is not None] or [high]
    margin = 0.04 * (high - low + room)
    return (
        max(max(min(low, *lows), low - room) - margin, bounds[0]),
        min(min(max(high, *highs), high + room) + margin, bounds[1]),
    )


def dots(
    axes: "Axes",
    records: Sequence[Dotted | None],
    places: Sequence[float],
    limits: tuple[float, float],
    looks: Mapping[str, Look],
) -> None:
    """Draw mean, interval and seeds of each record in its row; an interval that leaves the axis ends in an arrow.

    A row without record stays empty.
    """
    axes.set_xlim(*limits)
    plain_scale(axes, "x", 5)
    for place, record in zip(places, records, strict=True):
        if record is None:
            continue
        look = looks[record.method]
        below = np.full(len(record.values), place + 0.29)
        axes.plot(record.values, below, ".", color=GREY, markersize=2.4, mew=0, zorder=2, clip_on=False)
        if record.low is not None and record.high is not None:
            _bar(axes, place, (record.low, record.high), limits, look.color)
        _point(axes, mean_of(record), place, look.color)


def _point(axes: "Axes", x: float, y: float, color: str) -> None:
    axes.plot(x, y, "o", color=color, markersize=4, mec="white", mew=0.4, zorder=4, clip_on=False)


def _bar(axes: "Axes", place: float, bar: tuple[float, float], limits: tuple[float, float], color: str) -> None:
    """Draw an interval in its row, with an arrow where it leaves the axis."""
    inside = (bar[0] >= limits[0], bar[1] <= limits[1])
    ends = np.clip(bar, *limits)
    axes.plot(ends, [place, place], color=color, linewidth=1.0, zorder=3, clip_on=False)
    for stays, end, arrow in zip(inside, ends, "<>", strict=True):
        mark = "|" if stays else arrow
        axes.plot(end, place, mark, color=color, markersize=3.5 if stays else 3, clip_on=False, zorder=3)


def level(axes: "Axes", value: float, place: float, text: str, limits: tuple[float, float]) -> None:
    """Draw what the methods are held against in its own row, and its line through all of them.

    Where it would squeeze the methods its row says how far out it lies, with an arrow.
    """
    if limits[0] <= value <= limits[1]:
        axes.axvline(value, color="black", linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
        axes.plot(value, place, "D", color="black", markersize=3.2, zorder=4, clip_on=False)
        return
    right = value > limits[1]
    axes.annotate(
        f"{text} →" if right else f"← {text}",
        (limits[int(right)], place),
        ha="right" if right else "left",
        va="center",
        fontsize=SMALL,
    )


def reading(records: Sequence[Dotted], limits: tuple[float, float], interval: str) -> str:
    """Return how rows are read: what dots, bars and arrows are, as far as there are any."""
    bars = [(one.low, one.high) for one in records if one.low is not None and one.high is not None]
    parts = ["Dot: mean; small dots: seeds"]
    if bars:
        parts.append(f"bar: {interval}")
    if any(low < limits[0] or high > limits[1] for low, high in bars):
        parts.append("arrow: the bar goes on")
    return "; ".join(parts) + "."

"""Small pictures of one method for its fold-out on the page: its curves, and how far its confidence is right."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kd.analysis.by_class import Reliability
from kd.analysis.curves import Curves
from kd.analysis.details import ClassByClass
from kd.analysis.measures import CURVES
from kd.reporting.style import COLUMN, GREY, Look, new_figure, place_panels, plain_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 1.45  # inches
DPI = 170


def method_curves(curves: Mapping[str, Curves], look: Look) -> "Figure | None":
    """Return the curves of one method side by side, None without any."""
    from matplotlib.ticker import MaxNLocator

    found = [(curve.label, curves[curve.column]) for curve in CURVES if curve.column in curves]
    if not found:
        return None
    figure, panels = _panels(len(found))
    for axes, (label, one) in zip(panels, found, strict=True):
        marker = "o" if len(one.epochs) == 1 else None  # a line through one epoch is invisible
        axes.plot(one.epochs, one.mean, color=look.color, marker=marker, markersize=3, zorder=3)
        axes.fill_between(one.epochs, one.low, one.high, color=look.color, alpha=0.2, linewidth=0, zorder=2)
        axes.set_title(label)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        plain_scale(axes, "y", 5)
    return figure


def reliability_picture(found: ClassByClass, look: Look) -> "Figure":
    """Return accuracy over confidence before and, where a temperature was fitted, after scaling with it."""
    sides = [("As trained", found.before)]
    if found.after is not None:
        sides.append((f"With temperature {found.temperature:.2f}", found.after))
    figure, panels = _panels(len(sides))
    for axes, (title, one) in zip(panels, sides, strict=True):
        _reliability(axes, one, look)
        axes.set_title(title)
    panels[0].set_ylabel("Accuracy (%)")
    return figure


def _reliability(axes: "Axes", found: Reliability, look: Look) -> None:
    """Draw the bins' accuracies against the diagonal, on which confidence is right; a larger dot has more images."""
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.7, linestyle="--", zorder=1)
    bins = zip(found.images, found.confidence, found.accuracy, strict=True)
    known = [
        (images, confidence, right)
        for images, confidence, right in bins
        if confidence is not None and right is not None
    ]
    images, x, y = np.array(known).T
    axes.plot(100 * x, 100 * y, color=look.color, linewidth=0.8, zorder=2)
    axes.scatter(100 * x, 100 * y, s=2 + 26 * images / images.max(), color=look.color, zorder=3, clip_on=False)
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="Confidence (%)")
    axes.set_xticks([0, 50, 100])
    axes.set_yticks([0, 50, 100])
    axes.text(0.04, 0.96, f"ECE {found.error:.3f}", transform=axes.transAxes, va="top")


def _panels(count: int) -> tuple["Figure", list["Axes"]]:
    figure = new_figure(COLUMN, HEIGHT)
    panels = list(figure.subplots(1, 2, squeeze=False)[0])
    for axes in panels[count:]:
        axes.set_axis_off()
    place_panels(figure, (0.42, 0.12, 0.36, 0.2), (0.45, 0.0))
    return figure, panels[:count]

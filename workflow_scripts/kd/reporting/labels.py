"""Names beside points, placed one after the other where they hide least."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kd.reporting.style import settle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = 7.5
POINT = 6.0  # half the side, in points, of the square that a marker keeps free
RINGS = (7.0, 13.0, 21.0, 31.0, 43.0, 57.0)  # distances of a label from its point, in points
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))

Box = tuple[float, float, float, float]


def place_labels(figure: "Figure", axes: "Axes", x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Write each name near its point (data coordinates), clear of points and other names where there is room.

    A greedy search over directions and distances; a label that had to move away gets a thin line to its point.
    """
    from matplotlib.patheffects import withStroke

    settle(figure)  # labels are placed in pixels and must not move the axes again
    scale = 72 / figure.dpi  # pixels to points
    points = axes.transData.transform(np.column_stack([x, y])) * scale
    frame = tuple(value * scale for value in axes.get_window_extent().extents)
    taken: list[Box] = [(px - POINT, py - POINT, px + POINT, py + POINT) for px, py in points]
    for index in np.argsort(-points[:, 1], kind="stable"):
        size = _size(figure, names[index])
        box, offset, far = _best_place(points[index], size, taken, frame)
        taken.append(box)
        axes.annotate(
            names[index],
            (x[index], y[index]),
            xytext=offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=FONT,
            zorder=5,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": "#AAAAAA", "linewidth": 0.6, "shrinkB": 3} if far else None,
        )


def _size(figure: "Figure", name: str) -> tuple[float, float]:
    """Return width and height of a label in points."""
    label = figure.text(0, 0, name, fontsize=FONT)
    extent = label.get_window_extent()
    label.remove()
    return extent.width * 72 / figure.dpi + 2, extent.height * 72 / figure.dpi + 1


def _best_place(
    point: np.ndarray, size: tuple[float, float], taken: Sequence[Box], frame: Sequence[float]
) -> tuple[Box, tuple[float, float], bool]:
    """Return box, offset from the point and whether a line is needed, of the place that costs least."""
    width, height = size
    best: tuple[float, Box, tuple[float, float], bool] | None = None
    for ring, distance in enumerate(RINGS):
        for right, up in DIRECTIONS:
            shift = (right * (distance + width / 2), up * (distance + height / 2))
            centre = point + shift
            box = (centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2)
            inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
            price = sum(_overlap(box, other) for other in taken) + 3 * ring + (0 if inside else 1e4)
            if best is None or price < best[0]:
                best = (price, box, shift, ring > 0)
    assert best is not None
    return best[1:]


def _overlap(one: Box, other: Box) -> float:
    """Return the area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)

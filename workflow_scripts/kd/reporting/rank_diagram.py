"""The critical-difference diagram (Demsar 2006): mean ranks on a line, bars over methods that are not told apart."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kd.analysis.across import Across
from kd.reporting.style import GREY, Look, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.8
LINE = 0.17
"""Inches between two names."""
BAR = 0.09
"""Inches between two bars."""
FONT = 7.5
LETTER = 0.065
"""Inches of a name's letter."""
LETTERS = 30
"""Of a name, before it is cut."""


def rank_diagram(across: Across | None, looks: Mapping[str, Look]) -> "Figure":
    """Return the diagram; a sentence where pairs and data sets have too few methods in common."""
    if across is None:
        figure = new_figure(WIDTH, 1.2)
        said = "No two methods have results on two combinations of data set, teachers and student."
        figure.text(0.5, 0.5, said, ha="center", va="center", color=GREY)
        return figure
    ranks = across.ranks.ranks
    order = sorted(range(len(ranks)), key=lambda index: (ranks[index], index))
    levels = bar_levels([[ranks[index] for index in alike] for alike in across.ranks.alike])
    below = 0.1 + BAR * (max(levels, default=-1) + 1)
    deep = below + LINE * (len(order) + 1) / 2 + 0.1
    figure = new_figure(WIDTH, deep + 0.75)
    axes = figure.add_subplot()
    axes.set_axis_off()
    letters = min(max(len(one.method) for one in across.methods), LETTERS)
    beside = 0.5 + LETTER * letters
    room = beside * (len(order) - 1) / (WIDTH - 2 * beside)  # in ranks
    axes.set_xlim(1 - room, len(order) + room)
    axes.set_ylim(-deep, 0.55)
    _ruler(axes, len(order), across.ranks.critical_difference, len(across.places))
    for alike, level in zip(across.ranks.alike, levels, strict=True):
        ends = [ranks[alike[0]] - 0.02 * room, ranks[alike[-1]] + 0.02 * room]
        axes.plot(ends, [-0.08 - BAR * level] * 2, color="black", linewidth=2.2, solid_capstyle="butt", zorder=3)
    half = (len(order) + 1) // 2
    for place, index in enumerate(order):
        left = place < half
        depth = -(below + LINE * (place + 1 if left else len(order) - place))
        name = across.methods[index].method
        edge = 1 - 0.02 * room if left else len(order) + 0.02 * room
        axes.plot(
            [ranks[index], ranks[index], edge], [0, depth, depth], color=looks[name].color, linewidth=0.9, zorder=2
        )
        shown = name if len(name) <= letters else f"{name[: letters - 1]}…"
        words = f"{shown}  {ranks[index]:.1f}" if left else f"{ranks[index]:.1f}  {shown}"
        axes.text(edge, depth, f" {words} ", ha="right" if left else "left", va="center", fontsize=FONT)
    return figure


def bar_levels(spans: Sequence[Sequence[float]]) -> list[int]:
    """Return the lowest level for each bar, given its ranks in order, on which it meets no other one."""
    reached: list[float] = []
    levels = []
    for span in spans:
        level = next((number for number, end in enumerate(reached) if end < span[0] - 0.1), len(reached))
        reached[level : level + 1] = [span[-1]]
        levels.append(level)
    return levels


def _ruler(axes: "Axes", methods: int, far: float, places: int) -> None:
    """Draw the line of ranks and, above it, how far apart ranks must lie."""
    axes.plot([1, methods], [0, 0], color="black", linewidth=1)
    step = -(-methods // 12)
    for rank in range(1, methods + 1, step):
        axes.plot([rank, rank], [0, 0.05], color="black", linewidth=1)
        axes.text(rank, 0.07, str(rank), ha="center", va="bottom", fontsize=FONT)
    shown = min(far, methods - 1)
    axes.plot([1, 1 + shown], [0.33, 0.33], color="black", linewidth=1.2, marker="|", markersize=6)
    beyond = "; no ranks can lie so far apart" if far > methods - 1 else ""
    label = f"critical difference {far:.1f} (Nemenyi, mean ranks over {places} combinations{beyond})"
    axes.text(1, 0.4, label, ha="left", va="bottom", fontsize=FONT)

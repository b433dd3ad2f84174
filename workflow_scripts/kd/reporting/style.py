"""One look for every figure: drawn as wide as a paper's column, colours by family of methods, readable letters."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd.tools.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.5
"""Inches: a column of a paper in two columns, so that letters are printed in the size they are drawn in."""
SMALL, TEXT, TITLE = 6.5, 7.0, 8.0
"""Points; nothing is smaller than the first."""

# Tol's "muted" scheme, told apart with the common colour-vision deficiencies.
FAMILIES = {
    "baseline": "#555555",
    "logits": "#332288",
    "features": "#117733",
    "relational": "#CC9922",
    "self": "#CC6677",
    "online": "#882255",
    "multi-teacher": "#4DAEDB",
    "combined": "#AA4499",
}
"""The colour of each family of methods (kd.study.variant.Variant.family), the same wherever a method is drawn."""
FIXED = {"ce": FAMILIES["baseline"], "kd": FAMILIES["logits"]}
PALETTE = ["#CC6677", "#117733", "#88CCEE", "#882255", "#DDAA33", "#44AA99", "#AA4499", "#999933"]
"""Of what belongs to no family: strategies of a class-incremental run, parts of a training step."""
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
LINES = ["-", "--", "-.", ":"]
GREY = "#666666"
EDGE = 0.06
LINE_HEIGHT = 1.32  # of a line of text, in letter heights
KEY_ROW = 0.15
"""Inches: what stays free at both sides, and a line of the key of families."""

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": TEXT,
    "axes.titlelocation": "left",
    "axes.labelsize": TEXT,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "lines.linewidth": 1.2,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Look:
    """How one method is drawn, in every figure of an experiment."""

    color: str
    marker: str
    line: str
    family: str = ""
    """Its family, empty where it has none."""


def looks(methods: Mapping[str, str], families: Mapping[str, str] | None = None) -> dict[str, Look]:
    """Return the look of each method; `methods` maps a method to the base method it is a variant of.

    `families` says of base methods which family's colour they have; others get a colour each, in the order of their
    names. What shares a colour differs in marker and line.
    """
    known = {base: family for base, family in (families or {}).items() if family in FAMILIES}
    others = [base for base in sorted(set(methods.values())) if base not in known and base not in FIXED]
    colors = FIXED | {base: PALETTE[index % len(PALETTE)] for index, base in enumerate(others)}
    colors |= {base: FAMILIES[family] for base, family in known.items()}
    turns: dict[str, int] = {}  # how often a colour has been used
    result: dict[str, Look] = {}
    for method in sorted(methods, key=lambda name: (methods[name], name != methods[name], name)):
        color = colors[methods[method]]
        turn = turns[color] = turns.get(color, -1) + 1
        marker, line = MARKERS[turn % len(MARKERS)], LINES[turn % len(LINES)]
        result[method] = Look(color, marker, line, known.get(methods[method], ""))
    return result


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, in inches, laid out without overlaps; call it within `styled()`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def headed(figure: "Figure", title: str, notes: Sequence[str], used: Sequence[Look] = ()) -> tuple[float, float]:
    """Write a title, notes on how to read the figure below it and, at the foot, the families' colours.

    The height that they take, returned in inches for head and foot, is added to the figure, whose layout stays clear
    of them; call it before anything that measures.
    """
    width, height = figure.get_size_inches()
    lines = [(line, TITLE, "black") for line in _wrapped(figure, title, TITLE, width)]
    lines += [(line, SMALL, GREY) for note in notes for line in _wrapped(figure, note, SMALL, width)]
    head = 0.06 + sum(size * LINE_HEIGHT / 72 for _, size, _ in lines)
    families = {look.family: look.color for look in used if look.family}
    rows = _key_rows(figure, [name for name in FAMILIES if name in families], width)
    foot = 0.03 + len(rows) * KEY_ROW
    total = height + head + foot
    figure.set_size_inches(width, total)
    y = total - 0.06
    for line, size, color in lines:
        weight = "bold" if size == TITLE else "normal"
        text = figure.text(EDGE / width, y / total, line, fontsize=size, color=color, weight=weight, va="top")
        text.set_in_layout(False)
        y -= size * LINE_HEIGHT / 72
    for number, row in enumerate(rows):
        _key_row(figure, row, families, (foot - KEY_ROW * (number + 0.6)) / total)
    # the layout keeps a key of lines at the figure's edge, where the families are, so its room is taken here
    keys = 0.0
    for legend in figure.legends:
        keys += legend.get_window_extent().height / figure.dpi + 0.04
        legend.set_bbox_to_anchor((0.0, foot / total, 1.0, height / total), figure.transFigure)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0.0, (foot + keys) / total, 1.0, (height - keys) / total))  # type: ignore[call-arg]
    return head, foot


def _wrapped(figure: "Figure", sentence: str, size: float, width: float) -> list[str]:
    """Return a sentence in lines that fit between the edges."""
    lines: list[str] = []
    for word in sentence.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(figure, longer, size, "bold" if size == TITLE else "normal") <= width - 2 * EDGE:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def text_width(figure: "Figure", text: str, size: float, weight: str = "normal") -> float:
    """Return how wide a text is drawn, in inches."""
    drawn = figure.text(0, 0, text, fontsize=size, weight=weight)
    extent = drawn.get_window_extent().width / figure.dpi
    drawn.remove()
    return float(extent)


def _key_rows(figure: "Figure", names: Sequence[str], width: float) -> list[list[tuple[float, str]]]:
    """Return the lines of the key of families: of each name the inches from the left."""
    rows: list[list[tuple[float, str]]] = []
    x = width
    for name in names:
        wide = 0.12 + text_width(figure, name, SMALL) + 0.1
        if x + wide > width:
            rows.append([])
            x = EDGE
        rows[-1].append((x, name))
        x += wide
    return rows


def _key_row(figure: "Figure", row: Sequence[tuple[float, str]], colors: Mapping[str, str], y: float) -> None:
    from matplotlib.lines import Line2D

    width = figure.get_size_inches()[0]
    for x, name in row:
        dot = Line2D(
            [(x + 0.05) / width], [y], marker="o", color=colors[name], markersize=4, transform=figure.transFigure
        )
        figure.add_artist(dot)
        dot.set_in_layout(False)
        text = figure.text((x + 0.12) / width, y, name, fontsize=SMALL, color=GREY, va="center")
        text.set_in_layout(False)


def wrapped_name(name: str, most: int = 20) -> str:
    """Return a long name in lines of at most `most` letters, broken behind signs between its words."""
    lines = [""]
    for part in re.split(r"(?<=[_+.\- ])", name):
        for piece in [part[start : start + most] for start in range(0, len(part), most)]:
            if lines[-1] and len(lines[-1]) + len(piece) > most:
                lines.append("")
            lines[-1] += piece
    return "\n".join(lines)


def plain_scale(axes: "Axes", axis: str, bins: int) -> None:
    """Let a linear axis have few, round numbers."""
    from matplotlib.ticker import MaxNLocator

    getattr(axes, f"{axis}axis").set_major_locator(MaxNLocator(nbins=bins, steps=[1, 2, 5, 10]))


def place_panels(figure: "Figure", edges: tuple[float, float, float, float], gaps: tuple[float, float]) -> None:
    """Place a grid of panels by hand, in inches: edges left, right, bottom, top, gaps between columns and rows.

    What is drawn hundreds of times, or holds dozens of panels, would spend most of its time in a layout engine.
    """
    figure.set_layout_engine(None)
    width, height = figure.get_size_inches()
    left, right, bottom, top = edges
    place = figure.axes[0].get_subplotspec()
    assert place is not None, "panels of a figure stand in a grid"
    grid = place.get_gridspec()
    rows, columns = grid.nrows, grid.ncols
    panel = (width - left - right - (columns - 1) * gaps[0]) / columns
    line = (height - bottom - top - (rows - 1) * gaps[1]) / rows
    figure.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, gaps[0] / panel, gaps[1] / line
    )


def settle(figure: "Figure") -> None:
    """Work out the layout once and keep it: saving would do it again for every format."""
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def styled() -> Any:
    """Return the context in which figures are made and saved."""
    import matplotlib

    return matplotlib.rc_context(RC)


def save(figure: "Figure", path: str | Path) -> None:
    """Save a PNG or PDF that has the same bytes every time: no date and no program version inside."""
    with atomic_path(path) as temporary:
        if Path(path).suffix == ".png":
            temporary.write_bytes(png(figure))
        else:
            figure.savefig(temporary, metadata={"CreationDate": None, "Creator": None, "Producer": None})


def png(figure: "Figure", dpi: float | None = None) -> bytes:
    """Return a PNG of at most 256 colours, a third of the size and not to be told from all: pages hold hundreds."""
    from matplotlib import rcParams
    from PIL import Image

    drawn, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi or rcParams["savefig.dpi"], metadata={"Software": None})
    image = Image.open(drawn)
    few = image.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(reduced, "PNG", optimize=True, dpi=image.info["dpi"])
    return reduced.getvalue()

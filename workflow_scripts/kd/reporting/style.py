"""One look for every figure: fonts, sizes, and a fixed colour, marker and line for each method."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd.tools.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIXED = {"ce": "#555555", "kd": "#332288"}
# Tol's "muted" scheme, told apart with the common colour-vision deficiencies; its indigo is kd's.
PALETTE = ["#CC6677", "#117733", "#88CCEE", "#882255", "#DDAA33", "#44AA99", "#AA4499", "#999933"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
LINES = ["-", "--", "-.", ":"]
GREY = "#888888"

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Look:
    """How one method is drawn, in every figure of an experiment."""

    color: str
    marker: str
    line: str


def looks(methods: Mapping[str, str]) -> dict[str, Look]:
    """Return the look of each method; `methods` maps a method to the base method it is a variant of.

    Colours go to base methods in the order of their names (ce and kd have their own), variants share the colour
    and differ in marker and line, and so do base methods that meet a colour already given away.
    """
    bases = [base for base in sorted(set(methods.values())) if base not in FIXED]
    colors = FIXED | {base: PALETTE[index % len(PALETTE)] for index, base in enumerate(bases)}
    turns: dict[str, int] = {}  # how often a colour has been used
    result: dict[str, Look] = {}
    for method in sorted(methods, key=lambda name: (methods[name], name != methods[name], name)):
        color = colors[methods[method]]
        turn = turns[color] = turns.get(color, -1) + 1
        result[method] = Look(color, MARKERS[turn % len(MARKERS)], LINES[turn % len(LINES)])
    return result


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, in inches, laid out without overlaps; call it within `styled()`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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
    ending = Path(path).suffix
    metadata = {".pdf": {"CreationDate": None, "Creator": None, "Producer": None}, ".png": {"Software": None}}
    with atomic_path(path) as temporary:
        figure.savefig(temporary, metadata=metadata[ending])

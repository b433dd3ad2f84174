"""LaTeX tables that fit a column or a page as they are: widths by the metrics of the font, no scaling of letters."""

from collections.abc import Sequence
from dataclasses import dataclass

from kd.reporting import text

COLUMN = 234.0
"""Points of the narrowest column of the usual two-column styles."""
PAGE = 345.0
"""Points of the text of LaTeX's own article, narrower than that of any conference."""
GAP = 6.0
"""Points between two columns."""
SIZE = 8.0
"""Points of the letters: half-way between a footnote's and the text's, and no smaller."""
MOST_LINES = 40
"""Lines of a table's body that a page holds beside heading and caption."""

# Computer Modern Roman, thousandths of the size; of what stands in no row the width of an em is assumed.
_WIDTHS = {
    278: "!',.:;<[]`il",
    306: "fj",
    334: " -",
    389: "()tI",
    395: "rs",
    445: "cez_",
    500: '"$*/0123456789\\^ago{}~?–',
    528: "kqvxyJ",
    556: "Sbdhnpu",
    681: "EPFLZ",
    750: "AHNUVXYBCTwRΔ",
    786: "DG&+=@KOQ±−×≥≤",
    834: "#%m",
    917: "M",
    1028: "W",
}
WIDTHS = {character: width for width, characters in _WIDTHS.items() for character in characters}
EIGHT_POINTS = 1.0625
"""How much wider letters of 8 points are drawn, for their size, than those of 10."""
BOLD = 1.15
BREAK_AFTER = "_.+"


def width(words: str, bold: bool = False) -> float:
    """Return the points that a text takes at SIZE, at least."""
    ems = sum(WIDTHS.get(character, 1000) for character in words) / 1000
    return ems * SIZE * EIGHT_POINTS * (BOLD if bold else 1.0)


def lines_of(name: str, most: float) -> list[str]:
    """Return a name in lines of at most so many points, broken after _, . and + where it can be."""
    lines, rest = [], name
    while width(rest) > most:
        fits = max(end for end in range(1, len(rest) + 1) if width(rest[:end]) <= most or end == 1)
        good = [end for end in range(fits, fits // 2, -1) if rest[end - 1] in BREAK_AFTER]
        cut = good[0] if good else fits
        lines.append(rest[:cut])
        rest = rest[cut:]
    return [*lines, rest]


@dataclass(frozen=True)
class Cell:
    """What stands in one cell, in one line or several."""

    lines: tuple[str, ...] = ("",)
    bold: bool = False
    mark: str = ""
    """Of a note, raised."""
    span: int = 1
    """Columns that it takes; one that takes several stands in their middle."""
    left: bool = False

    @property
    def width(self) -> float:
        """Return the points that it takes."""
        return max(width(line, self.bold) for line in self.lines) + width(self.mark)

    def source(self) -> str:
        """Return it as LaTeX."""
        lines = [text.latex(line) for line in self.lines]
        stacked, place = r"\\".join(lines), "l" if self.left else "c"
        words = lines[0] if len(lines) == 1 else rf"\shortstack[{place}]{{{stacked}}}"
        words = rf"\textbf{{{words}}}" if self.bold and words else words
        words += rf"\textsuperscript{{{self.mark}}}" if self.mark else ""
        return rf"\multicolumn{{{self.span}}}{{c}}{{{words}}}" if self.span > 1 else words


Rows = Sequence[Sequence[Cell]]


def column_widths(rows: Rows) -> list[float]:
    """Return the points of each column, that of cells over several shared evenly where they need more."""
    count = sum(cell.span for cell in rows[0])
    widths = [0.0] * count
    for spanning in (False, True):
        for row in rows:
            place = 0
            for cell in row:
                held = range(place, place + cell.span)
                place += cell.span
                if (cell.span > 1) == spanning:
                    lacking = cell.width - sum(widths[one] for one in held) - GAP * (cell.span - 1)
                    for one in held if lacking > 0 else ():
                        widths[one] += lacking / cell.span
    return widths


def total_width(rows: Rows) -> float:
    """Return the points of a table of these rows."""
    widths = column_widths(rows)
    return sum(widths) + GAP * (len(widths) - 1)


def table(head: Rows, parts: Sequence[Rows], caption: str, notes: Sequence[tuple[str, str]] = ()) -> str:
    """Return a booktabs table, as wide as a column or else as a page; `parts` are parted by lines, notes have marks."""
    rows = [*head, *(row for part in parts for row in part)]
    wide = total_width(rows) > COLUMN
    environment = "table*" if wide else "table"
    columns = sum(cell.span for cell in rows[0])
    body: list[str] = []
    for part in parts:
        body += [r"\midrule", *map(_row, part)] if part else []
    lines = [
        rf"\begin{{{environment}}}[tbp]",
        r"\centering",
        rf"\fontsize{{{SIZE:g}}}{{{SIZE + 1.5:g}}}\selectfont",
        rf"\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}",
        rf"\caption{{{text.latex(caption)}}}",
        rf"\begin{{tabular}}{{@{{}}l{'r' * (columns - 1)}@{{}}}}",
        r"\toprule",
        *map(_row, head),
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *[rf"\par\raggedright {_note(mark, sentence)}" for mark, sentence in notes],
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[Cell]) -> str:
    return " & ".join(cell.source() for cell in cells) + r" \\"


def _note(mark: str, sentence: str) -> str:
    return (rf"\textsuperscript{{{mark}}} " if mark else "") + text.latex(sentence)


def height(row: Sequence[Cell]) -> int:
    """Return the lines that a row takes."""
    return max(len(cell.lines) for cell in row)


def pages(rows: Sequence[Sequence[Cell]], most: int = MOST_LINES) -> list[list[Sequence[Cell]]]:
    """Return the rows in as many parts as pages hold them; one empty part for no rows."""
    found: list[list[Sequence[Cell]]] = [[]]
    lines = 0
    for row in rows:
        if found[-1] and lines + height(row) > most:
            found.append([])
            lines = 0
        found[-1].append(row)
        lines += height(row)
    return found

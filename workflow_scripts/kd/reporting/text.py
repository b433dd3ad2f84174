"""Numbers and texts as a reader sees them, and how Markdown and LaTeX want them escaped."""

import re
from collections.abc import Mapping, Sequence

from kd.analysis.measures import Shown

NONE = "—"
MINUS = "−"

LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "—": "---",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\rightarrow$",
    "\u00a0": "~",
}


def latex(text: str) -> str:
    """Return the text safe for LaTeX; characters that pdfLaTeX does not know become '?'."""
    escaped = "".join(LATEX.get(character, character) for character in re.sub(r"[\r\n\t]+", " ", text))
    return "".join(character if ord(character) < 0x250 else "?" for character in escaped)


def markdown(text: str) -> str:
    """Return the text safe for a cell of a Markdown table."""
    flat = re.sub(r"([\\|*`<\[\]])", r"\\\1", re.sub(r"[\r\n\t]+", " ", text))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", flat)  # inside a word it is harmless


def decimal(value: float | None, digits: int = 2) -> str:
    """Return 71.20, or a dash for what is not known."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """Return +1.20 or −0.30, or a dash for what is not known."""
    return NONE if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def spread(mean: float | None, sd: float | None) -> str:
    """Return 71.20 ± 0.35: the one meaning that ± has, the standard deviation over seeds; without it for one seed."""
    return decimal(mean) + ("" if sd is None else f" ± {decimal(sd)}")


def share(won: float | None, low: float | None, high: float | None) -> str:
    """Return 67 % [21, 94], a share with its interval, or a dash."""
    return NONE if won is None or low is None or high is None else f"{won:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Return [−0.30, +1.20], or nothing where there is no interval."""
    return "" if low is None or high is None else f"[{signed(low, digits)}, {signed(high, digits)}]"


def between(low: float | None, high: float | None) -> str:
    """Return [71.30, 72.10] for what has no sign, or nothing where there is no interval."""
    return "" if low is None or high is None else f"[{decimal(low)}, {decimal(high)}]"


def p_value(value: float | None) -> str:
    """Return a p value with as many digits as it deserves."""
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def duration(seconds: float | None) -> str:
    """Return seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def quantity(value: float | None, unit: str = "") -> str:
    """Return a count with an SI prefix and three significant digits, e.g. 1.23 P."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def amount(value: float | None, measure: Shown) -> str:
    """Return a measure's value with its digits and, for times, memory and counts, with the unit that reads best."""
    if value is None:
        return NONE
    if measure.unit == "s":
        return duration(value)
    if measure.unit == "ms":
        return f"{value:.3g} ms"
    if measure.unit == "MB":
        return quantity(value * 1e6, "B")
    if measure.unit in ("FLOPs", "count"):
        return quantity(value)
    return decimal(value, measure.digits)


def amounts(values: Mapping[str, float | None], measures: Sequence[Shown], sign: str) -> str:
    """Return the values of measures that share a place, with a sign between them; one dash if none is known."""
    if all(values[measure.name] is None for measure in measures):
        return NONE
    return sign.join(amount(values[measure.name], measure) for measure in measures)


def listing(items: list[str]) -> str:
    """Return 'a', 'a and b' or 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def seed_list(seeds: list[int]) -> str:
    """Return 'seed 0' or 'seeds 0, 1 and 2'."""
    return f"seed{'s' if len(seeds) != 1 else ''} {listing([str(seed) for seed in seeds])}"

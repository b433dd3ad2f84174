"""The table of all pairs and data sets together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kd.analysis.across import Across, Gain, Overall
from kd.reporting import text
from kd.reporting.answer import costs_across
from kd.reporting.comparison import Sources
from kd.reporting.lines import Line, Row, Section


@dataclass(frozen=True)
class Together:
    """A method's line over all places."""

    overall: Overall
    gains: dict[str, Gain]
    """By reference."""
    flops: float | None
    role: str = "student"

    def content(self) -> dict[str, Any]:
        """Return it by name."""
        return asdict(self)

    def value(self, key: str) -> float | None:
        """Return the number behind a cell."""
        own = {"accuracy": self.overall.mean, "iqm": self.overall.iqm, "rank": self.overall.rank, "flops": self.flops}
        kind, _, reference = key.partition("_")
        gain = self.gains.get(reference)
        return own.get(key) if gain is None else {"delta": gain.mean, "won": gain.won, "p": gain.p_holm}[kind]


def across_section(sources: Sources, sections: Sequence[Section[Line]]) -> Section[Together] | None:
    """Return the table, None where pairs and data sets have too little in common."""
    across = sources.statistics.across
    if across is None:
        return None
    flops = costs_across(across, sections)
    lines = [_together(one, across, flops[one.method]) for one in across.methods]
    references = list(dict.fromkeys(one.reference for one in across.gains))
    apart = any(one.tied_with_best is False for one in across.methods)
    rows = [Row(line, _cells(line, references), apart and line.overall.tied_with_best is True) for line in lines]
    columns = {"method": "Method", "accuracy": "Mean (%)", "iqm": "IQM (%)", "rank": "Mean rank"}
    for name in references:
        columns |= {f"delta_{name}": f"Δ {name}", f"won_{name}": f"Ahead of {name}"}
        columns |= {f"p_{name}": f"p (Holm, {name})"} if _is_told(across, name, sources.report.confidence) else {}
    title = f"{len(across.places)} combinations of data set, teachers and student"
    caption = _caption(across, sources.report.confidence, apart, [key for key in columns if key.startswith("p_")])
    return Section("All together", title, caption, {**columns, "flops": "Training FLOPs"}, rows, [])


def _together(one: Overall, across: Across, flops: float | None) -> Together:
    return Together(one, {gain.reference: gain for gain in across.gains if gain.method == one.method}, flops)


def _is_told(across: Across, reference: str, confidence: float) -> bool:
    """Whether a corrected p of signed ranks can get small: the least it can be is 2 / 2^places."""
    tests = max((one.holm_over for one in across.gains if one.reference == reference), default=0)
    return tests > 0 and tests * 2.0 ** (1 - len(across.places)) < 1 - confidence


def _cells(line: Together, references: Sequence[str]) -> dict[str, str]:
    one = line.overall
    cells = {
        "method": one.method,
        "accuracy": text.decimal(one.mean),
        "iqm": f"{text.decimal(one.iqm)} {text.between(one.iqm_low, one.iqm_high)}".rstrip(),
        "rank": text.decimal(one.rank, 1),
        "flops": text.quantity(line.flops),
    }
    for name in references:
        gain = line.gains.get(name)
        cells[f"delta_{name}"] = (
            f"{text.signed(gain.mean)} {text.interval(gain.low, gain.high)}".rstrip() if gain else ""
        )
        cells[f"won_{name}"] = text.share(gain.won, gain.won_low, gain.won_high) if gain else ""
        cells[f"p_{name}"] = text.p_value(gain.p_holm) if gain else ""
    return cells


def _caption(across: Across, confidence: float, apart: bool, tested: Sequence[str]) -> str:
    percent, ranks = f"{100 * confidence:.6g}%", across.ranks
    over = {one.spread_over for one in across.gains}
    left = [*across.left_out, *(": ".join(place) for place in across.left_out_places)]
    drawn = f", with its {percent} interval from a bootstrap within each combination"
    beyond = "; no ranks can lie so far apart" if ranks.critical_difference > len(across.methods) - 1 else ""
    friedman = f"; Friedman's test of all ranks: p = {text.p_value(ranks.p)}" if ranks.p is not None else ""
    sentences = [
        "Mean: of the combinations' means, each of which weighs the same.",
        f"IQM: mean of the middle half of all runs{drawn if across.methods[0].iqm_low is not None else ''}.",
        f"Δ: mean difference paired by seed, in points; [ ]: its {percent} interval, which speaks of other "
        + ("seeds of these combinations." if over == {"seeds"} else "combinations."),
        "Ahead: share of the pairs of runs of one seed in which the method's is better, with Wilson's "
        f"{percent} interval.",
        "p: Wilcoxon's signed ranks over the combinations, Holm-corrected." if tested else "",
        f"Mean ranks are told apart from {text.decimal(ranks.critical_difference, 1)} ranks on (Nemenyi, "
        f"{percent}{beyond}){friedman}.",
        "Bold: not told apart from the best mean on these combinations (paired t over seeds, one-sided, "
        "Bonferroni-corrected)."
        if apart
        else "",
        f"Not among them, for want of results on all combinations: {text.listing(left)}." if left else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence and (over or sentence[0] not in "ΔA"))

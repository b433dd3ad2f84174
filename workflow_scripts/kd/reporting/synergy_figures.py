"""The diagnosis of a synergy as figures: beside the average of its teachers, on images new and known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd.analysis.diagnosis import ORDER, SPLITS, SourceRecord, Spread, source_records
from kd.analysis.rows import RunRow
from kd.analysis.synergy import TEACHER_UPDATE, Found
from kd.reporting.designs import place_of
from kd.reporting.dots import ROW, Bounded, dots, limits_of, mean_of, row_places
from kd.reporting.style import COLUMN, GREY, Look, headed, looks, new_figure, plain_scale, wrapped_name
from kd.schema.config import Reporting
from kd.study.designs import Design

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 4
"""More chains than these stand in rows, with the synergy of their last stage."""


@dataclass(frozen=True)
class Panel:
    """A quantity, on validation images at the left and on training images at the right."""

    measure: str
    label: str
    compared: bool
    """Whether it is shown minus the average's."""

    def of(self, one: SourceRecord) -> Spread | None:
        """Return what is drawn of a source."""
        return (one.differences if self.compared else one.means).get(self.measure)


ANSWERS = (Panel("top1", "Top-1 (points)", True), Panel("nll", "NLL (nats)", True))
TARGETS = (Panel("off_label", "Off label (%)", False), Panel("correlation", "Correlation", False))


@dataclass(frozen=True)
class Drawn:
    """What is drawn of a chain: its row, or its line's point."""

    method: str
    values: list[float]
    mean: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, method: str, spread: Spread) -> "Drawn":
        """Return it for the seeds of a chain."""
        return cls(method, spread.values, spread.mean, spread.low, spread.high)


@dataclass(frozen=True)
class Told:
    """What both figures of a design are drawn from."""

    records: list[SourceRecord]
    design: Design
    look: Mapping[str, Look]
    report: Reporting

    @property
    def chains(self) -> list[str]:
        """Return the methods that have something to show, in order."""
        known = {one.method for one in self.records}
        return [name for name in self.design.chains if name in known]

    def synergies(self, method: str, split: str) -> list[SourceRecord]:
        """Return what the synergy of a chain was, half-stage by half-stage."""
        return [one for one in self.records if (one.method, one.split, one.what) == (method, split, "synergy")]

    def bar(self, split: str) -> SourceRecord | None:
        """Return the average of the teachers as given."""
        return next((one for one in self.records if (one.split, one.what) == (split, "bar")), None)


def synergy_figures(
    found: Sequence[Found],
    runs: Sequence[RunRow],
    design: Design,
    report: Reporting,
    families: Mapping[str, str],
) -> tuple["Figure", "Figure"]:
    """Return what the synergy answers and what its targets hold, each beside the average of the teachers as given."""
    look = looks({run.method: run.base_method for run in runs if run.kind == "student"}, families)
    told = Told(source_records(found, runs, design, report), design, look, report)
    heat = report.analysis.temperature if report.analysis else 1.0
    return (
        _figure(
            told,
            ANSWERS,
            "Synergy minus its teachers' average",
            "Better: top-1 above 0, NLL below.",
        ),
        _figure(
            told,
            TARGETS,
            "What the synergy holds beside the label",
            f"Off label: probability of the other classes at temperature {heat:g}; correlation of their logits with "
            "the average's.",
        ),
    )


def _figure(told: Told, panels: Sequence[Panel], title: str, meaning: str) -> "Figure":
    used = [told.look[name] for name in told.chains]
    if not used:
        figure, notes = new_figure(COLUMN, 0.5), ["No run has finished."]
    else:
        draw = _over_stages if len(told.chains) <= MOST_LINES else _in_rows
        figure, note = draw(told, panels)
        notes = [meaning, note]
    headed(figure, title, [f"{place_of(told.design)}.", *notes], used)
    return figure


# --- a few chains, half-stage by half-stage -------------------------------------------------------


def _over_stages(told: Told, panels: Sequence[Panel]) -> tuple["Figure", str]:
    figure = new_figure(COLUMN, 2.6 + 0.14 * -(-(len(told.chains) + 1) // 2))
    grid = figure.subplots(len(panels), len(SPLITS), sharex=True, sharey="row", squeeze=False)
    every = [one for name in told.chains for split in SPLITS for one in told.synergies(name, split)]
    places = sorted({(one.stage, ORDER.index(one.half)) for one in every})
    cut = False
    for panel, row in zip(panels, grid, strict=True):
        spreads = [spread for one in every if (spread := panel.of(one))]
        levels = [_level(told, panel, split) for split in SPLITS]
        seeds = [one.values for one in spreads] + [[level] for level in levels if level is not None]
        limits = limits_of(seeds or [[0.0]], spreads)
        cut |= any(_beyond(one, limits) for one in spreads)
        for split, level, axes in zip(SPLITS, levels, row, strict=True):
            _panel(axes, told, panel, split, places)
            if level is not None:
                axes.axhline(level, color="black", linewidth=0.7, linestyle="--", zorder=1, label="average")
            axes.set_ylim(*limits)
            plain_scale(axes, "y", 4)
        row[0].set_ylabel(panel.label)
    for split, axes in zip(SPLITS, grid[0], strict=True):
        axes.set_title(f"{SPLITS[split]} images")
    for axes in grid[-1]:
        axes.set_xticks(range(len(places)), [f"{stage}{'TS'[half - 1]}" for stage, half in places])
        axes.set_xlabel("Stage and half")
    found = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=2)
    interval = f"; bar: {100 * told.report.confidence:.6g}% t interval" if _has_bars(told, panels) else ""
    note = f"T: after the teachers' half of a stage, S: after the student's. Dot: mean; small dots: seeds{interval}"
    return figure, f"{note}{'; a bar that ends at the frame goes on' if cut else ''}."


def _panel(axes: "Axes", told: Told, panel: Panel, split: str, places: Sequence[tuple[int, int]]) -> None:
    for number, name in enumerate(told.chains):
        shift = 0.14 * (number - (len(told.chains) - 1) / 2)
        look = told.look[name]
        shown = [
            (places.index((one.stage, ORDER.index(one.half))) + shift, Drawn.of(name, spread))
            for one in told.synergies(name, split)
            if (spread := panel.of(one))
        ]
        axes.plot(
            [x for x, _ in shown],
            [mean_of(one) for _, one in shown],
            look.line,
            color=look.color,
            marker=look.marker,
            ms=3.5,
            label=name,
            zorder=3,
        )
        for x, one in shown:
            axes.plot([x + 0.08] * len(one.values), one.values, ".", color=GREY, ms=2.4, mew=0, zorder=2)
            if one.low is not None and one.high is not None:
                axes.vlines(x, one.low, one.high, color=look.color, linewidth=1.0, zorder=2)
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.5, len(places) - 0.5)


def _level(told: Told, panel: Panel, split: str) -> float | None:
    """Return where the average itself stands, None where nothing is said of it."""
    if panel.compared:
        return 0.0
    bar = told.bar(split)
    found = panel.of(bar) if bar else None
    return found.mean if found else None


def _beyond(one: Bounded, limits: tuple[float, float]) -> bool:
    return one.low is not None and one.high is not None and (one.low < limits[0] or one.high > limits[1])


def _has_bars(told: Told, panels: Sequence[Panel]) -> bool:
    spreads = [panel.of(one) for panel in panels for one in told.records if one.what == "synergy"]
    return any(one is not None and one.low is not None for one in spreads)


# --- many chains, in rows -------------------------------------------------------------------------


def _in_rows(told: Told, panels: Sequence[Panel]) -> tuple["Figure", str]:
    names = [wrapped_name(name) for name in told.chains]
    places, edges = row_places(names)
    figure = new_figure(COLUMN, len(panels) * (0.5 + ROW * (edges[-1] - edges[0])))
    grid = figure.subplots(len(panels), len(SPLITS), sharey=True, sharex="row", squeeze=False)
    cut = False
    for panel, row in zip(panels, grid, strict=True):
        drawn = {split: [_last(told, panel, name, split) for name in told.chains] for split in SPLITS}
        known = [one for rows in drawn.values() for one in rows if one is not None]
        levels = {split: _level(told, panel, split) for split in SPLITS}
        seeds = [one.values for one in known] + [[level] for level in levels.values() if level is not None]
        limits = limits_of(seeds or [[0.0]], known)
        for split, axes in zip(SPLITS, row, strict=True):
            level = levels[split]
            if level is not None:
                axes.axvline(level, color="black", linewidth=0.7, linestyle="--", zorder=1)
            dots(axes, drawn[split], places, limits, told.look)
            axes.set_xlabel(panel.label)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        cut |= any(_beyond(one, limits) for one in known)
    grid[0][0].set_yticks(places, names)
    grid[0][0].set_ylim(edges[-1], edges[0])
    for split, axes in zip(SPLITS, grid[0], strict=True):
        axes.set_title(f"{SPLITS[split]} images")
    interval = f"; bar: {100 * told.report.confidence:.6g}% t interval" if _has_bars(told, panels) else ""
    note = f"The synergy that the last stage's student learned from. Dot: mean; small dots: seeds{interval}"
    return figure, f"{note}{'; arrow: the bar goes on' if cut else ''}. Dashed: the average."


def _last(told: Told, panel: Panel, method: str, split: str) -> Drawn | None:
    targets = [one for one in told.synergies(method, split) if one.half == TEACHER_UPDATE]
    spread = panel.of(targets[-1]) if targets else None
    return Drawn.of(method, spread) if spread else None

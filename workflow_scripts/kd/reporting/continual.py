"""Continual learning as a table, a heat map a strategy, and accuracies over tasks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd.analysis.continual import COMPARED, MEASURES, CourseRun, StrategyRecord, mean_matrix, read_runs, summaries
from kd.analysis.runs import grouped
from kd.reporting import text
from kd.reporting.answer import alike
from kd.reporting.layout import FIGURE_FORMATS, figure_name
from kd.reporting.style import COLUMN, GREY, SMALL, TEXT, headed, looks, new_figure, save, settle, styled, wrapped_name
from kd.schema.config import Reporting
from kd.tools.csv_files import csv_text
from kd.tools.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

NOTES = (
    "Test top-1 in percent, mean ± standard deviation over seeds; differences are paired by seed, with a {percent} t "
    "interval. Average incremental: mean over tasks of the accuracy over all seen classes after the task. Final: over "
    "all classes after the last task. Forgetting: mean over tasks but the last of best accuracy before the last task "
    "minus final accuracy, in points. Task known: only the classes of the image's own task may be answered. The test "
    "images were read by the last weights of each task, which nothing selects."
)
NUMBERS_ACROSS = 18  # cells side by side, more numbers than these would not fit into them


def write_continual(runs: Sequence[Mapping[str, Any]], folder: str | Path, report: Reporting) -> None:
    """Write tables/continual.* and figures/<data set>/continual/* below a folder; `runs` as in `read_runs`."""
    found = read_runs(runs)
    records = summaries(found, report.confidence)
    tables = Path(folder) / "tables"
    atomic_write(tables / "continual.csv", as_csv(found))
    atomic_write(tables / "continual.md", as_markdown(records, report.confidence))
    atomic_write(tables / "continual.json", as_json(records, found))
    with styled():
        for dataset in dict.fromkeys(run.dataset for run in found):
            own = [run for run in found if run.dataset == dataset]
            for name, figure in (("accuracy_matrices", matrices(own)), ("accuracy_over_tasks", over_tasks(own))):
                settle(figure)
                for ending in FIGURE_FORMATS:
                    save(figure, Path(folder) / "figures" / figure_name(dataset, "continual", name, ending))


# --- tables ---------------------------------------------------------------------------------------


def as_csv(runs: Sequence[CourseRun]) -> str:
    """Return one line per run: its measures, and its accuracy over seen classes after each task."""
    tasks = max((len(run.matrix["sizes"]) for run in _finished(runs)), default=0)
    seen = [f"seen_after_{number}" for number in range(1, tasks + 1)]
    columns = ["dataset", "student", "strategy", "seed", "status", "reason", *MEASURES, *seen, "path"]
    return csv_text((_flat(run, seen) for run in runs), columns)


def _flat(run: CourseRun, seen: Sequence[str]) -> dict[str, Any]:
    """Return a run by column of the CSV file; `seen` are the columns of accuracies over seen classes."""
    names = ("dataset", "student", "strategy", "seed", "status", "reason", "path")
    numbers = {} if run.reason else {**run.measures, **dict(zip(seen, run.seen, strict=False))}
    return {name: getattr(run, name) for name in names} | {key: f"{value:.6g}" for key, value in numbers.items()}


def as_json(records: Sequence[StrategyRecord], runs: Sequence[CourseRun]) -> str:
    """Return summaries and every run with its whole matrices."""
    content = {"summaries": [record.content() for record in records], "runs": [run.content() for run in runs]}
    return json.dumps(content, indent=1) + "\n"


@dataclass(frozen=True)
class Table:
    """The strategies of one data set and student, as text."""

    dataset: str
    student: str
    headings: list[str]
    rows: list[list[str]]
    problems: list[str]
    """Of every run without result, its strategy, seed and reason."""
    answer: str
    """Which strategy leads by how much, and what is not told apart from it."""


def as_tables(records: Sequence[StrategyRecord]) -> list[Table]:
    """Return a table for each data set and student."""
    tables = []
    for (dataset, student), members in grouped(records, lambda record: (record.dataset, record.student)).items():
        problems = [f"{record.strategy}, {problem}" for record in members for problem in record.problems]
        rows = [list(_cells(record).values()) for record in members]
        said = answer(members)
        tables.append(Table(dataset, student, list(_cells(members[0])), rows, problems, said))
    return tables


def answer(records: Sequence[StrategyRecord]) -> str:
    """Return in a sentence which strategy of one data set and student leads, with what uncertainty."""
    best = next((one for one in records if one.is_best), None)
    if best is None:
        return "No run has finished, so that there is nothing to compare."
    final, lost = best.measures[COMPARED], best.measures["forgetting"]
    seeds = f"{final.n} seed{'s' if final.n != 1 else ''}"
    told = f"{text.spread(final.mean, final.sd)} % over all classes after the last task ({seeds})"
    if best.difference is not None:
        gain = text.interval(best.difference.low, best.difference.high)
        told += f", {text.signed(best.difference.mean)} points over {best.reference} {gain}".rstrip()
    told += f", having forgotten {text.spread(lost.mean, lost.sd)} points of the tasks before"
    others = [(one.strategy, one.tied_with_best) for one in records if one.used and one is not best]
    if not others:
        return f"Only {best.strategy} has a result, {told}."
    if final.n < 2:
        return f"With one seed nothing can be told from chance: the highest is {best.strategy}, {told}."
    return f"{best.strategy} leads with {told}; {alike(others)}."


def notes(confidence: float) -> str:
    """Return what the numbers of the tables are."""
    return NOTES.format(percent=f"{100 * confidence:g} %")


def as_markdown(records: Sequence[StrategyRecord], confidence: float) -> str:
    """Return a table for each data set and student, with what is missing below it."""
    lines: list[str] = []
    for table in as_tables(records):
        lines += [
            f"## {table.dataset}, {table.student}",
            "",
            f"> {table.answer}",
            "",
            _line(table.headings),
            _line(["---"] * len(table.headings)),
        ]
        lines += [_line(row) for row in table.rows]
        problems = [f"- {problem}" for problem in table.problems]
        lines += ["", *(["Without result:", "", *problems, ""] if problems else [])]
    return "\n".join([*lines, notes(confidence), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(text.markdown(cell) if cell != '---' else cell for cell in cells)} |"


def _cells(record: StrategyRecord) -> dict[str, str]:
    """Return the cells of one strategy by heading."""
    cells = {"Strategy": record.strategy}
    for name, measure in MEASURES.items():
        cells[measure.heading] = text.spread(record.measures[name].mean, record.measures[name].sd)
        if name == COMPARED:
            one = record.difference
            delta = text.NONE if one is None else f"{text.signed(one.mean)} {text.interval(one.low, one.high)}"
            cells[f"{measure.heading} minus {record.reference}"] = delta.strip()
    return cells | {"Seeds": f"{record.used} of {record.planned}"}


# --- figures --------------------------------------------------------------------------------------


def matrices(runs: Sequence[CourseRun]) -> "Figure":
    """Return a heat map a strategy: mean accuracy on each task's images (columns) after each task (rows)."""
    groups = _by_strategy(runs)
    if not groups:
        return _nothing()
    columns = min(len(groups), 3)
    lines = -(-len(groups) // columns)
    tables = {strategy: mean_matrix(members) for strategy, members in groups.items()}
    scale = heat_scale(list(tables.values()))
    figure = new_figure(COLUMN, (COLUMN - 0.5) / columns * lines + 0.55)
    panels = figure.subplots(lines, columns, squeeze=False)
    image: AxesImage | None = None
    for axes, (strategy, table) in zip(panels.flat, tables.items(), strict=False):
        image = _heat(axes, table, scale, columns)
        axes.set_title(wrapped_name(strategy, 18))
    for axes in panels.flat[len(groups) :]:
        axes.set_axis_off()
    assert image is not None
    bar = figure.colorbar(image, ax=panels, shrink=0.8, pad=0.02)
    bar.set_label("Test top-1 (%), any seen class")
    figure.supxlabel("Images of task", fontsize=TEXT)
    figure.supylabel("After task", fontsize=TEXT)
    headed(figure, "What is left of each task", [_place(runs), "Mean of the seeds."])
    return figure


def heat_scale(tables: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the ends of a colour scale that fits the data: multiples of 5 around them, within 0 and 100."""
    low, high = (float(edge([edge(table) for table in tables])) for edge in (np.nanmin, np.nanmax))
    bottom, top = 5 * np.floor(low / 5), 5 * np.ceil(high / 5)
    return max(float(bottom), 0.0), min(float(top if top > bottom else bottom + 5), 100.0)


def _heat(axes: "Axes", matrix: np.ndarray, scale: tuple[float, float], columns: int) -> "AxesImage":
    tasks = len(matrix)
    image = axes.imshow(np.ma.masked_invalid(matrix), vmin=scale[0], vmax=scale[1], cmap="viridis")
    axes.grid(visible=False)
    ticks = range(0, tasks, -(-tasks // 5))
    axes.set_xticks(ticks, [str(tick + 1) for tick in ticks])
    axes.set_yticks(ticks, [str(tick + 1) for tick in ticks])
    if tasks * columns <= NUMBERS_ACROSS:
        for row, column in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
            value = matrix[row, column]
            colour = "white" if value < scale[0] + 0.6 * (scale[1] - scale[0]) else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=SMALL, color=colour)
    return image


def over_tasks(runs: Sequence[CourseRun]) -> "Figure":
    """Return accuracy over seen classes after each task, mean and range over seeds, a line a strategy."""
    from matplotlib.ticker import MaxNLocator

    groups = _by_strategy(runs)
    if not groups:
        return _nothing()
    figure = new_figure(COLUMN, 2.1 + 0.14 * -(-len(groups) // 3))
    axes = figure.add_subplot()
    drawn = looks({strategy: strategy for strategy in groups})
    for strategy, members in groups.items():
        values, look = np.array([run.seen for run in members]), drawn[strategy]
        numbers = np.arange(1, values.shape[1] + 1)
        axes.plot(numbers, values.mean(0), color=look.color, marker=look.marker, ms=3, label=strategy, zorder=3)
        axes.fill_between(numbers, values.min(0), values.max(0), color=look.color, alpha=0.15, linewidth=0, zorder=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Tasks learnt")
    axes.set_ylabel("Test top-1 over seen classes (%)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headed(figure, "Accuracy while classes are added", [_place(runs), "Line: mean of the seeds; band: their range."])
    return figure


def _place(runs: Sequence[CourseRun]) -> str:
    students = text.listing(list(dict.fromkeys(run.student for run in runs)))
    return f"Student {students}, on {runs[0].dataset}."


def _by_strategy(runs: Sequence[CourseRun]) -> dict[str, list[CourseRun]]:
    return grouped(_finished(runs), lambda run: run.strategy)


def _finished(runs: Sequence[CourseRun]) -> list[CourseRun]:
    return [run for run in runs if not run.reason]


def _nothing() -> "Figure":
    figure = new_figure(COLUMN, 0.6)
    figure.text(0.5, 0.5, "No continual run has finished.", ha="center", va="center", color=GREY)
    return figure

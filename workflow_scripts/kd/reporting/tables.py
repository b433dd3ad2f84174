"""The comparison as CSV, Markdown, LaTeX and JSON, and what it says in sentences, all from the same rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kd.analysis import measures
from kd.analysis.across import Across
from kd.analysis.runs import CONTROL
from kd.reporting import text
from kd.reporting.across import across_section
from kd.reporting.answer import answer_of
from kd.reporting.answer import as_markdown as as_answer
from kd.reporting.comparison import build_sections, load_sources
from kd.reporting.latex import Cell, lines_of, pages, table
from kd.reporting.lines import Line, Numbers, Row, Section
from kd.reporting.paper import NAME, paper_table
from kd.reporting.search import search_sections
from kd.schema.cards import Card
from kd.schema.config import Reporting
from kd.tools.csv_files import write_csv
from kd.tools.files import atomic_write

RECORD = [
    *["dataset", "pair", "role", "method", "base_method", "teachers", "student", "n_planned", "n_used"],
    *["mean", "half_width", "low", "high", "sd", "tied_with_best"],
]
DIFFERENCE = [
    *["mean", "low", "high", "n", "p", "p_holm"],
    *["won", "won_low", "won_high", "verdict", "seeds_needed"],
]
PUBLISHED = ["top1", "difference", "source"]
HEADING = 60.0
"""Points after which a heading is broken."""


def write_tables(
    runs_csv: str | Path,
    statistics_json: str | Path,
    folder: str | Path,
    report: Reporting,
    cards: Mapping[str, Card],
    experiment_meta: Mapping[str, Any],
    trials_csv: str | Path | None = None,
    networks_json: str | Path | None = None,
) -> None:
    """Write comparison.csv, .md, .tex and .json, and answer.md, into `folder`; of searches search.md and .csv too."""
    sources = load_sources(runs_csv, statistics_json, report, cards, experiment_meta, trials_csv, networks_json)
    sections = build_sections(sources)
    target = Path(folder) / "comparison"
    lines = [row.numbers for section in sections for row in section.rows]
    controls = [CONTROL] if any(line.control for line in lines) else []
    write_csv(target.with_suffix(".csv"), map(_flat, lines), _columns([*report.references, *controls]))
    atomic_write(target.with_suffix(".md"), as_markdown(sections, experiment_meta))
    atomic_write(target.with_suffix(".tex"), paper_table(sections, report, experiment_meta))
    atomic_write(target.with_suffix(".json"), as_json(sections, experiment_meta, sources.statistics.across))
    together = across_section(sources, sections)
    table = "\n\n".join(markdown_table(together)) if together else ""
    searches = search_sections(sources, sections)
    answer = as_answer(answer_of(sources, sections, searches), experiment_meta["experiment"], table)
    atomic_write(target.with_name("answer.md"), answer)
    if searches:
        told = [row.numbers.flat((one.dataset, one.pair), report.weights) for one in searches for row in one.rows]
        write_csv(target.with_name("search.csv"), told)
        atomic_write(target.with_name("search.md"), as_markdown(searches, experiment_meta))


def _columns(references: Sequence[str]) -> list[str]:
    """Return the columns of comparison.csv."""
    return [
        *RECORD,
        *(measure.name for measure in measures.shown() if measure.csv),
        *(_difference_column(key, name) for name in references for key in DIFFERENCE),
        *(f"published_{label}_{key}" for label in ("last", "best") for key in PUBLISHED),
        "note",
    ]


def _difference_column(key: str, reference: str) -> str:
    return f"{'delta' if key == 'mean' else key}_{reference}"


def _flat(line: Line) -> dict[str, Any]:
    """Return a line's plain numbers by column."""
    differences = {**line.differences, **({CONTROL: line.control} if line.control else {})}
    compared = {
        _difference_column(key, name): getattr(one, key) for name, one in differences.items() for key in DIFFERENCE
    }
    beside = {
        f"published_{label}_{key}": getattr(one, key) for label, one in line.published.items() for key in PUBLISHED
    }
    lost = [f"seed {one.seed} {one.status}: {one.reason}" for one in line.record.unused]
    return {
        **{key: getattr(line.record, key) for key in RECORD},
        **{measure.name: line.means[measure.name] for measure in measures.shown() if measure.csv},
        **compared,
        **beside,
        "note": "; ".join(lost),
    }


def as_json(sections: Sequence[Section[Numbers]], meta: Mapping[str, Any], across: Across | None = None) -> str:
    """Return the sections with captions, rows of numbers and notes, and what they say together."""
    content = {
        "experiment": meta["experiment"],
        "sections": [
            {
                "dataset": section.dataset,
                "pair": section.pair,
                "caption": section.caption,
                "warning": section.warning,
                "rows": [row.numbers.content() for row in section.rows],
                "notes": [{"mark": mark, "text": sentence} for mark, sentence in section.notes],
            }
            for section in sections
        ],
    }
    content |= {} if across is None else {"across": asdict(across)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_markdown(sections: Sequence[Section[Numbers]], meta: Mapping[str, Any]) -> str:
    """Return the sections as GitHub-flavoured Markdown."""
    parts = [f"# {text.markdown(meta['experiment'])}"]
    parts += [text.markdown(meta["description"])] if meta.get("description") else []
    parts += [part for section in sections for part in _markdown_section(section)]
    return "\n\n".join(parts) + "\n"


def _markdown_section(section: Section[Numbers]) -> list[str]:
    return [f"## {text.markdown(section.dataset)}: {text.markdown(section.pair)}", *markdown_table(section)]


def markdown_table(section: Section[Numbers]) -> list[str]:
    """Return the columns that matter as a table, with what a reader must know above and below it."""
    lines = [_pipes([text.markdown(name) for name in section.shown.values()])]
    lines.append(_pipes(["---" if index == 0 else "---:" for index in range(len(section.shown))]))
    lines += [_pipes(_markdown_cells(row, section)) for row in section.rows]
    notes = [f"- {f'<sup>{mark}</sup> ' if mark else ''}{text.markdown(sentence)}" for mark, sentence in section.notes]
    warning = [f"**{text.markdown(section.warning)}**"] if section.warning else []
    return [*warning, "\n".join(lines), text.markdown(section.caption), *(["\n".join(notes)] if notes else [])]


def _markdown_cells(row: Row[Numbers], section: Section[Numbers]) -> list[str]:
    cells = {key: text.markdown(row.cells[key]) for key in section.shown}
    if row.bold:
        cells["accuracy"] = f"**{cells['accuracy']}**"
    if row.marks:
        cells["accuracy"] += f" <sup>{','.join(row.marks)}</sup>"
    return list(cells.values())


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_latex(sections: Sequence[Section[Numbers]]) -> str:
    """Return one booktabs table a section, at most as wide as a page; the document needs the package booktabs."""
    head = "% needs \\usepackage{booktabs}; no table is wider than 345 points\n"
    return head + "\n".join(_latex_section(section) for section in sections)


def _latex_section(section: Section[Numbers]) -> str:
    names = list(section.shown)
    head = [
        Cell(tuple(lines_of(heading, HEADING)), left=index == 0) for index, heading in enumerate(section.shown.values())
    ]
    rows = [[_latex_cell(row, key, left=key == names[0]) for key in names] for row in section.rows]
    caption = [section.caption, "Continued."]
    return "\n".join(
        table([head], [part], caption[bool(number)], section.notes if number == 0 else ())
        for number, part in enumerate(pages(rows))
    )


def _latex_cell(row: Row[Numbers], key: str, left: bool) -> Cell:
    marked = key == "accuracy"
    lines = lines_of(row.cells[key], NAME) if key == "method" else [row.cells[key]]
    return Cell(tuple(lines), bold=marked and row.bold, mark=",".join(row.marks) if marked else "", left=left)

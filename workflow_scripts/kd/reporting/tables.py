"""The comparison as CSV, Markdown, LaTeX and JSON, all from the same rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.analysis import measures
from kd.analysis.runs import CONTROL
from kd.reporting import text
from kd.reporting.comparison import build_sections, load_sources
from kd.reporting.lines import Line, Numbers, Row, Section
from kd.schema.cards import Card
from kd.schema.config import Reporting
from kd.tools.csv_files import write_csv
from kd.tools.files import atomic_write

RECORD = [
    *["dataset", "pair", "role", "method", "base_method", "teachers", "student", "n_planned", "n_used"],
    *["mean", "half_width", "low", "high", "sd", "tied_with_best"],
]
DIFFERENCE = ["mean", "low", "high", "n", "p", "p_holm"]
PUBLISHED = ["top1", "difference", "source"]


def write_tables(
    runs_csv: str | Path,
    statistics_json: str | Path,
    folder: str | Path,
    report: Reporting,
    cards: Mapping[str, Card],
    experiment_meta: Mapping[str, Any],
) -> None:
    """Write comparison.csv, .md, .tex and .json into `folder`."""
    sections = build_sections(load_sources(runs_csv, statistics_json, report, cards, experiment_meta))
    target = Path(folder) / "comparison"
    lines = [row.numbers for section in sections for row in section.rows]
    controls = [CONTROL] if any(line.control for line in lines) else []
    write_csv(target.with_suffix(".csv"), map(_flat, lines), _columns([*report.references, *controls]))
    atomic_write(target.with_suffix(".md"), as_markdown(sections, experiment_meta))
    atomic_write(target.with_suffix(".tex"), as_latex(sections))
    atomic_write(target.with_suffix(".json"), as_json(sections, experiment_meta))


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


def as_json(sections: Sequence[Section[Numbers]], meta: Mapping[str, Any]) -> str:
    """Return the sections with captions, rows of numbers and notes."""
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
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_markdown(sections: Sequence[Section[Numbers]], meta: Mapping[str, Any]) -> str:
    """Return the sections as GitHub-flavoured Markdown."""
    parts = [f"# {text.markdown(meta['experiment'])}"]
    parts += [text.markdown(meta["description"])] if meta.get("description") else []
    parts += [part for section in sections for part in _markdown_section(section)]
    return "\n\n".join(parts) + "\n"


def _markdown_section(section: Section[Numbers]) -> list[str]:
    heading = f"## {text.markdown(section.dataset)}: {text.markdown(section.pair)}"
    lines = [_pipes([text.markdown(name) for name in section.columns.values()])]
    lines.append(_pipes(["---" if index == 0 else "---:" for index in range(len(section.columns))]))
    lines += [_pipes(_markdown_cells(row, section)) for row in section.rows]
    notes = [f"- {f'<sup>{mark}</sup> ' if mark else ''}{text.markdown(sentence)}" for mark, sentence in section.notes]
    warning = [f"**{text.markdown(section.warning)}**"] if section.warning else []
    return [heading, *warning, "\n".join(lines), text.markdown(section.caption), *(["\n".join(notes)] if notes else [])]


def _markdown_cells(row: Row[Numbers], section: Section[Numbers]) -> list[str]:
    cells = {key: text.markdown(row.cells[key]) for key in section.columns}
    if row.bold:
        cells["accuracy"] = f"**{cells['accuracy']}**"
    if row.marks:
        cells["accuracy"] += f" <sup>{','.join(row.marks)}</sup>"
    return list(cells.values())


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_latex(sections: Sequence[Section[Numbers]]) -> str:
    """Return one booktabs table a section; the document needs the packages booktabs and graphicx."""
    head = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}\n"
    return head + "\n".join(_latex_section(section) for section in sections)


def _latex_section(section: Section[Numbers]) -> str:
    headings = " & ".join(_stacked(name) for name in section.columns.values())
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{text.latex(section.caption)}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(section.columns) - 1)}}}",
        r"\toprule",
        headings + r" \\",
        r"\midrule",
        *_latex_rows(section),
        r"\bottomrule",
        r"\end{tabular}}",
        *[rf"\par\footnotesize {_latex_note(mark, sentence)}" for mark, sentence in _latex_notes(section)],
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _stacked(heading: str) -> str:
    """Return a heading broken in two lines where it is long."""
    words = heading.split(" ")
    if len(heading) < 14 or len(words) == 1:
        return text.latex(heading)
    breaks = range(1, len(words))
    cut = min(breaks, key=lambda place: max(len(" ".join(words[:place])), len(" ".join(words[place:]))))
    return rf"\shortstack{{{text.latex(' '.join(words[:cut]))}\\{text.latex(' '.join(words[cut:]))}}}"


def _latex_rows(section: Section[Numbers]) -> list[str]:
    lines: list[str] = []
    for before, row in zip([None, *section.rows], section.rows, strict=False):
        if before is not None and before.numbers.role == "teacher" and row.numbers.role != "teacher":
            lines.append(r"\midrule")
        lines.append(" & ".join(_latex_cells(row, section)) + r" \\")
    return lines


def _latex_cells(row: Row[Numbers], section: Section[Numbers]) -> list[str]:
    cells = {key: text.latex(row.cells[key]) for key in section.columns}
    if row.bold:
        cells["accuracy"] = rf"\textbf{{{cells['accuracy']}}}"
    if row.marks:
        cells["accuracy"] += rf"\textsuperscript{{{','.join(row.marks)}}}"
    return list(cells.values())


def _latex_notes(section: Section[Numbers]) -> list[tuple[str, str]]:
    return [("", section.warning), *section.notes] if section.warning else section.notes


def _latex_note(mark: str, sentence: str) -> str:
    return (rf"\textsuperscript{{{mark}}} " if mark else "") + text.latex(sentence)

"""The files of an experiment's own analyses; apart from what makes them, which the page reads too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.analysis.runs import read_runs
from kd.reporting.designs import as_csv, design_figure, design_section
from kd.reporting.layout import FIGURE_FORMATS, figure_name
from kd.reporting.style import save, settle, styled
from kd.reporting.tables import as_json, as_latex, as_markdown
from kd.schema.config import Reporting
from kd.study.designs import Design
from kd.tools.files import atomic_write


def write_designs(
    runs_csv: str | Path,
    designs: Sequence[Design],
    folder: str | Path,
    report: Reporting,
    meta: Mapping[str, Any],
    families: Mapping[str, str],
) -> None:
    """Write tables/analysis.csv, .md, .tex and .json and each design's figure below a folder."""
    runs = read_runs(runs_csv)
    sections = [design_section(runs, design, report, meta) for design in designs]
    target = Path(folder) / "tables" / "analysis"
    atomic_write(target.with_suffix(".csv"), as_csv(designs, sections))
    atomic_write(target.with_suffix(".md"), as_markdown(sections, meta))
    atomic_write(target.with_suffix(".tex"), as_latex(sections))
    atomic_write(target.with_suffix(".json"), as_json(sections, meta))
    with styled():
        for design in designs:
            figure = design_figure(runs, design, report, families)
            settle(figure)
            for ending in FIGURE_FORMATS:
                name = figure_name(design.dataset, design.folder, design.kind, ending)
                save(figure, Path(folder) / "figures" / name)

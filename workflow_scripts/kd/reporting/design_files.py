"""The files of an experiment's own analyses; apart from what makes them, which the page reads too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.analysis.runs import read_runs
from kd.analysis.synergy import read_synergy
from kd.reporting import synergy
from kd.reporting.designs import as_csv, design_figure, design_section
from kd.reporting.layout import FIGURE_FORMATS, figure_name, figures_of
from kd.reporting.style import save, settle, styled
from kd.reporting.synergy_figures import synergy_figures
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
    synergy_csv: Path | None = None,
) -> None:
    """Write tables/analysis.csv, .md, .tex and .json and each design's figures below a folder.

    `synergy_csv` holds what designs of kind synergy tell of.
    """
    runs = read_runs(runs_csv)
    found = read_synergy(synergy_csv) if synergy_csv else []
    if synergy_csv:
        several = [synergy.synergy_sections(found, runs, design, report, meta) for design in designs]
        numbers = synergy.as_csv(found, runs, designs, report)
    else:
        several = [[design_section(runs, design, report, meta)] for design in designs]
        numbers = as_csv(designs, [section for (section,) in several])
    sections = [section for own in several for section in own]
    target = Path(folder) / "tables" / "analysis"
    atomic_write(target.with_suffix(".csv"), numbers)
    atomic_write(target.with_suffix(".md"), as_markdown(sections, meta))
    atomic_write(target.with_suffix(".tex"), as_latex(sections))
    atomic_write(target.with_suffix(".json"), as_json(sections, meta))
    with styled():
        for design in designs:
            drawn = (
                synergy_figures(found, runs, design, report, families)
                if synergy_csv
                else [design_figure(runs, design, report, families)]
            )
            for name, figure in zip(figures_of(design), drawn, strict=True):
                settle(figure)
                for ending in FIGURE_FORMATS:
                    save(figure, Path(folder) / "figures" / figure_name(design.dataset, design.folder, name, ending))

"""Where tables and figures lie, known before any of them is drawn (no heavy imports: a Snakefile may read it)."""

from collections.abc import Iterable
from pathlib import Path

from kd.study.designs import Design

TEMPLATE = Path(__file__).with_name("page.html.j2")
TABLE_FORMATS = ("csv", "md", "tex", "json")
REFERENCES = "references.bib"
"""Beside the tables: the papers of their methods."""
FIGURES = ("learning_curves", "accuracy", "differences", "cost")
FIGURE_FORMATS = ("png", "pdf")


def table_files() -> list[str]:
    """Return the names that `write_tables` makes in its folder."""
    return [f"comparison.{ending}" for ending in TABLE_FORMATS]


def figure_name(dataset: str, pair: str, figure: str, ending: str) -> str:
    """Return the path of one figure inside the figures folder."""
    return f"{dataset}/{pair}/{figure}.{ending}"


def figure_files(groups: Iterable[tuple[str, str]]) -> list[str]:
    """Return the paths that `write_figures` makes for these (dataset, pair) groups."""
    return [
        figure_name(dataset, pair, figure, ending)
        for dataset, pair in groups
        for figure in FIGURES
        for ending in FIGURE_FORMATS
    ]


CONTINUAL_FORMATS = ("csv", "md", "json")
CONTINUAL_FIGURES = ("accuracy_matrices", "accuracy_over_tasks")


def continual_tables() -> list[str]:
    """Return the names that `write_continual` makes in the folder of tables."""
    return [f"continual.{ending}" for ending in CONTINUAL_FORMATS]


def continual_figures(datasets: Iterable[str]) -> list[str]:
    """Return the paths that `write_continual` makes in the folder of figures."""
    return [
        figure_name(dataset, "continual", figure, ending)
        for dataset in datasets
        for figure in CONTINUAL_FIGURES
        for ending in FIGURE_FORMATS
    ]


def design_tables() -> list[str]:
    """Return the names that `write_designs` makes in the folder of tables."""
    return [f"analysis.{ending}" for ending in TABLE_FORMATS]


def design_figures(designs: Iterable[Design]) -> list[str]:
    """Return the paths that `write_designs` makes in the folder of figures."""
    return [
        figure_name(design.dataset, design.folder, design.kind, ending)
        for design in designs
        for ending in FIGURE_FORMATS
    ]

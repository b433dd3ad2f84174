"""Where tables and figures lie, known before any of them is drawn (no heavy imports: a Snakefile may read it)."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from kd.study.designs import Design

TEMPLATE = Path(__file__).with_name("page.html.j2")
TABLE_FORMATS = ("csv", "md", "tex", "json")
SEARCH_TABLES = ("search.md", "search.csv")
REFERENCES = "references.bib"
"""Beside the tables: the papers of their methods."""
FIGURES = ("learning_curves", "accuracy", "differences", "cost")
FIGURE_FORMATS = ("png", "pdf")
RANKS = ("all", "together", "ranks")
"""The names of the diagram of all data sets and pairs together."""


def table_files(searches: bool = False) -> list[str]:
    """Return the names that `write_tables` makes in its folder, with or without searches."""
    return ["answer.md", *(f"comparison.{ending}" for ending in TABLE_FORMATS), *(SEARCH_TABLES if searches else ())]


def in_terminal(markdown: str, page: str) -> list[str]:
    """Return the lines that a terminal shows of an answer.md: its sentences, and where the page lies."""
    top = markdown.split("\n## ", maxsplit=1)[0]
    return [*(line for line in top.splitlines() if line and line[0] not in "#["), f"The page: {page}"]


def courses_in_terminal(markdown: str) -> list[str]:
    """Return the lines that a terminal shows of a continual.md: of each data set and student the sentence in quotes."""
    return [line.removeprefix("> ") for line in markdown.splitlines() if line.startswith("> ")]


def figure_name(dataset: str, pair: str, figure: str, ending: str) -> str:
    """Return the path of one figure inside the figures folder."""
    return f"{dataset}/{pair}/{figure}.{ending}"


def figure_files(groups: Sequence[tuple[str, str]]) -> list[str]:
    """Return the paths that `write_figures` makes for these (dataset, pair) groups, what they say together last."""
    drawn = [(dataset, pair, figure) for dataset, pair in groups for figure in FIGURES]
    drawn += [RANKS] if len(groups) > 1 else []
    return [figure_name(*names, ending) for names in drawn for ending in FIGURE_FORMATS]


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


SYNERGY_FIGURES = ("synergy", "synergy_targets")


def figures_of(design: Design) -> tuple[str, ...]:
    """Return the names of a design's figures."""
    return SYNERGY_FIGURES if design.chains else (design.kind,)


def design_figures(designs: Iterable[Design]) -> list[str]:
    """Return the paths that `write_designs` makes in the folder of figures."""
    return [
        figure_name(design.dataset, design.folder, figure, ending)
        for design in designs
        for figure in figures_of(design)
        for ending in FIGURE_FORMATS
    ]

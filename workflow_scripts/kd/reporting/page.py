"""report.html: the whole comparison on one page that opens offline, at the width of a screen or of a telephone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.analysis import measures
from kd.analysis.continual import read_record
from kd.analysis.details import Details, Shown, read_details
from kd.analysis.rows import RunRow
from kd.analysis.runs import CONTROL
from kd.analysis.synergy import Found, read_synergy
from kd.reporting import text
from kd.reporting.across import across_section
from kd.reporting.answer import Said, answer_of
from kd.reporting.comparison import Sources, build_sections, load_sources
from kd.reporting.continual import Table, as_tables, notes
from kd.reporting.designs import TITLES, design_section, place_of
from kd.reporting.figures import Group, load_groups, taught
from kd.reporting.folds import Fold, data_uri, fold_of, pretty
from kd.reporting.layout import CONTINUAL_FIGURES, FIGURES, RANKS, TEMPLATE, figure_name, figures_of
from kd.reporting.lines import Line, Row, Section
from kd.reporting.search import search_sections
from kd.reporting.style import styled
from kd.reporting.synergy import synergy_sections
from kd.schema.cards import Card
from kd.schema.config import Reporting
from kd.study.designs import Design
from kd.tools.errors import UserError
from kd.tools.files import atomic_write, read_json

CAPTIONS = {
    "accuracy": "Accuracy of each method: mean, t interval and every seed.",
    "differences": "Difference to the reference, seed by seed.",
    "cost": "Accuracy beside all the compute it takes, teachers included.",
    "learning_curves": "Validation accuracy over epochs, beside that of the baseline.",
    "ranks": "Mean ranks over all data sets and pairs; a bar joins methods that the ranks do not tell apart.",
    "accuracy_over_tasks": "Accuracy over all seen classes after each task.",
    "accuracy_matrices": "Accuracy on each task's images (columns) after each task (rows).",
}
SYNERGY = "synergy of the teachers"
SYNERGY_CAPTIONS = (
    "The synergy beside the average of its teachers: what it answers.",
    "The synergy beside the average of its teachers: what it holds beside the label.",
)
MOST_NAMES = 400
"""More classes than these are not listed by name."""


@dataclass(frozen=True)
class Inputs:
    """The files that the page is made from."""

    runs: Path
    statistics: Path
    curves: Path
    details: Path
    figures: Path
    """The folder of the PNG files of `write_figures`, `write_designs` and `write_continual`."""
    continual: Path | None = None
    """continual.json, where there are such runs."""
    trials: Path | None = None
    """trials.csv, where there are searches."""
    synergy: Path | None = None
    """synergy.csv, where an analysis is of that kind."""
    networks: Path | None = None
    """networks.json, where networks were measured."""


@dataclass(frozen=True)
class Image:
    """A picture inside the page."""

    source: str
    caption: str


@dataclass(frozen=True)
class Column:
    """A column of a comparison's table."""

    key: str
    heading: str
    main: bool
    """Whether it is shown before a reader asks for more."""
    number: bool


@dataclass(frozen=True)
class Block:
    """Rows of a table that are sorted among themselves: teachers, methods, links of chains."""

    role: str
    rows: list[Row[Any]]


@dataclass(frozen=True)
class Comparison:
    """A table that a reader can sort, and whose columns a reader can choose."""

    section: Section[Any]
    columns: list[Column]
    blocks: list[Block]

    def value(self, row: Row[Any], key: str) -> float | None:
        """Return what a cell is sorted by, None for a text or what is not known."""
        found: float | None = sort_value(row.numbers, key) if isinstance(row.numbers, Line) else row.numbers.value(key)
        return found


@dataclass(frozen=True)
class Analysis:
    """One design of the experiment's own analysis on the page."""

    title: str
    tables: list[Comparison]
    folded: list[tuple[str, Comparison]]
    """Headings and tables for whom wants to know more."""
    images: list[Image]


@dataclass(frozen=True)
class Course:
    """One data set and student of the class-incremental runs on the page."""

    table: Table
    notes: str
    images: list[Image]


@dataclass(frozen=True)
class Chapter:
    """One data set and pair on the page."""

    title: str
    sentences: list[str]
    """What it says by itself, where there are several."""
    details: list[str]
    table: Comparison
    search: Comparison | None
    """What its searches found, if it has some."""
    images: list[Image]
    folds: list[Fold]


@dataclass(frozen=True)
class Classes:
    """The images and classes of one data set on the page."""

    name: str
    facts: str
    images: list[Image]
    names: list[tuple[str, int, int]]
    """Class, training and test images; empty where they are too many."""


def write_page(
    inputs: Inputs,
    out: str | Path,
    report: Reporting,
    cards: Mapping[str, Card],
    meta: Mapping[str, Any],
    families: Mapping[str, str],
    designs: Sequence[Design] = (),
) -> None:
    """Write the self-contained page: tables, figures, a fold-out per method, images, what is missing, provenance."""
    import jinja2

    sources = load_sources(inputs.runs, inputs.statistics, report, cards, meta, inputs.trials, inputs.networks)
    groups = load_groups(inputs.runs, inputs.statistics, inputs.curves, report, families)
    details = read_details(inputs.details)
    halves = read_synergy(inputs.synergy) if inputs.synergy else []
    sections = build_sections(sources)
    searches = search_sections(sources, sections)
    answer, together = answer_of(sources, sections, searches), across_section(sources, sections)
    found = {(one.dataset, one.pair): comparison(one) for one in searches}
    parts = zip(sections, groups, answer.parts, strict=True)
    with styled():
        chapters = [
            _chapter(section, found.get((section.dataset, section.pair)), group, part, cards, details, inputs.figures)
            for section, group, part in parts
        ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        meta=meta,
        question=_question(sources),
        answer=answer.sentences,
        together=together and comparison(together),
        ranks=_image(inputs.figures / figure_name(*RANKS, "png"), CAPTIONS["ranks"]) if together else None,
        analyses=[_analysis(design, sources, halves, inputs.figures) for design in designs],
        chapters=chapters,
        courses=_courses(inputs, report),
        datasets=[_classes(name, shown, meta["datasets"].get(name, {})) for name, shown in details.datasets.items()],
        problems=_problems(sources),
        provenance=_provenance(sources, details),
        recipe=pretty(meta.get("recipe", {})),
    )
    atomic_write(out, page)


def _question(sources: Sources) -> str:
    students = [one for one in sources.statistics.methods if one.role == "student"]
    methods = {one.method for one in students}
    pairs = len({one.group for one in students})
    seeds = text.seed_list(list(sources.meta["seeds"]))
    return (
        f"Which distillation method is worth it? {len(methods)} method{'s' if len(methods) != 1 else ''} under one "
        f"recipe on {pairs} combination{'s' if pairs != 1 else ''} of data set, teachers and student, with {seeds}."
    )


def _chapter(
    section: Section[Line],
    search: Comparison | None,
    group: Group,
    said: Said,
    cards: Mapping[str, Card],
    details: Details,
    folder: Path,
) -> Chapter:
    order = ("differences", "cost", "accuracy", "learning_curves")
    assert set(order) == set(FIGURES)
    images = [
        _image(folder / figure_name(group.dataset, group.pair, figure, "png"), CAPTIONS[figure]) for figure in order
    ]
    students = [row.numbers for row in section.rows if row.numbers.role == "student"]
    own = details.of(group.dataset, group.pair)
    folds = [fold_of(line, group, cards, own) for line in students]
    title = f"{taught(group.pair)}, on {group.dataset}"
    return Chapter(title, said.sentences, said.details, comparison(section), search, images, folds)


def comparison(section: Section[Any]) -> Comparison:
    """Return a section's table as the page shows it."""
    columns = [
        Column(key, heading, not section.main or is_main(key), key != "method")
        for key, heading in section.columns.items()
    ]
    roles = dict.fromkeys(row.numbers.role for row in section.rows)
    blocks = [Block(role, [row for row in section.rows if row.numbers.role == role]) for role in roles]
    return Comparison(section, columns, blocks)


MAIN = ("method", "accuracy", measures.TOTAL_FLOPS.heading)
"""Columns that a reader sees first, beside the differences to each reference."""


def is_main(key: str) -> bool:
    """Whether a column is one of those that matter to the answer."""
    return key in MAIN or key.startswith("delta_")


def sort_value(line: Line, key: str) -> float | None:
    """Return the number behind a cell of the comparison."""
    record = line.record
    kind, _, reference = key.partition("_")
    if key in ("accuracy", "n"):
        return record.mean if key == "accuracy" else record.n_used
    compared = {**line.differences, CONTROL: line.control}
    if kind in ("delta", "p", "won", "seeds") and (found := compared.get(reference)) is not None:
        return {"delta": found.mean, "p": found.p_holm, "won": found.won, "seeds": found.seeds_needed}[kind]
    if kind == "published" and reference in line.published:
        return line.published[reference].top1
    names = [measure.name for measure in measures.together("heading").get(key, [])]
    return line.means[names[0]] if names else None


def _analysis(design: Design, sources: Sources, found: Sequence[Found], folder: Path) -> Analysis:
    """Return what the page shows of one design: its tables and its figures, the first ones before a reader asks."""
    paths = [folder / figure_name(design.dataset, design.folder, name, "png") for name in figures_of(design)]
    title = f"{(SYNERGY if design.chains else TITLES[design.kind]).capitalize()}: {place_of(design)}"
    if design.chains:
        sections = synergy_sections(found, sources.runs, design, sources.report, sources.meta)
        images = [_image(path, caption) for path, caption in zip(paths, SYNERGY_CAPTIONS, strict=True)]
    else:
        sections = [design_section(sources.runs, design, sources.report, sources.meta)]
        images = [_image(path, f"{title}.") for path in paths]
    shown = 1 + bool(design.points and design.chains)
    folded = [(section.pair.removeprefix(f"{design.folder}, "), comparison(section)) for section in sections[shown:]]
    return Analysis(title, [comparison(section) for section in sections[:shown]], folded, images)


def _courses(inputs: Inputs, report: Reporting) -> list[Course]:
    """Return what the page shows of the class-incremental runs."""
    if inputs.continual is None:
        return []
    courses = []
    for table in as_tables([read_record(content) for content in read_json(inputs.continual)["summaries"]]):
        paths = {
            name: inputs.figures / figure_name(table.dataset, "continual", name, "png") for name in CONTINUAL_FIGURES
        }
        images = [_image(path, CAPTIONS[name]) for name, path in paths.items()]
        courses.append(Course(table, notes(report.confidence), images))
    return courses


def _image(path: Path, caption: str) -> Image:
    if not path.is_file():
        raise UserError(f"{path} does not exist, and the page shows it")
    return Image(data_uri(path.read_bytes()), caption)


def _classes(name: str, shown: Shown, settings: Mapping[str, Any]) -> Classes:
    facts = (
        f"{len(shown.classes):,} classes, {sum(shown.train):,} training and {sum(shown.test):,} test images of "
        f"{shown.size} × {shown.size} pixels."
    )
    if settings.get("subset_size"):
        facts += f" Students see {settings['subset_size']:,} of the training images, with those for validation."
    if settings.get("class_subset"):
        facts += " Students learn a part of the classes."
    images = [Image(f"data:image/png;base64,{example.png}", example.name) for example in shown.examples]
    listed = list(zip(shown.classes, shown.train, shown.test, strict=True))
    return Classes(name, facts, images, listed if len(listed) <= MOST_NAMES else [])


def _problems(sources: Sources) -> list[RunRow]:
    """Return the rows of the runs without result."""
    return [row for row in sources.runs if row.status != "ok"]


def _provenance(sources: Sources, details: Details) -> list[tuple[str, str]]:
    """Return names and values of the footer; what differs between runs is listed in full."""
    finished = sum(row.status == "ok" for row in sources.runs)
    facts = [
        ("Seeds", text.listing([str(seed) for seed in sources.meta["seeds"]])),
        ("Seed of the teachers", str(sources.meta.get("teacher_seed", "same"))),
        ("Classes of a class_subset", " | ".join(details.classes)),
        ("Runs", f"{finished} finished of {len(sources.runs)} rows in runs.csv"),
        ("Devices", _distinct([row.device for row in sources.runs])),
        ("Number formats and kernels", _distinct([_made(row) for row in sources.runs])),
        ("Versions", " | ".join(details.versions)),
        ("Git", " | ".join(details.commits)),
    ]
    return [(name, value) for name, value in facts if value]


def _made(row: RunRow) -> str:
    """Return how a run was trained and evaluated, empty where its record does not say."""
    evaluated = f", evaluated in {row.eval_precision}" if row.eval_precision else ""
    return f"{row.precision}, {row.kernels}{evaluated}" if row.precision else ""


def _distinct(values: Sequence[str]) -> str:
    return " | ".join(dict.fromkeys(value for value in values if value))

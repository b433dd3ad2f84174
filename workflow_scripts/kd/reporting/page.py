"""report.html: the whole comparison on one page that opens offline."""

import base64
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd.analysis import measures
from kd.analysis.continual import read_record
from kd.analysis.designs import PointRecord
from kd.analysis.records import as_object
from kd.analysis.rows import RunRow
from kd.reporting import text
from kd.reporting.comparison import Sources, build_sections, load_sources
from kd.reporting.continual import Table, as_tables, notes
from kd.reporting.designs import design_section
from kd.reporting.figures import Group, load_groups, method_curves
from kd.reporting.layout import CONTINUAL_FIGURES, TEMPLATE, figure_name
from kd.reporting.lines import Line, Section
from kd.reporting.style import styled
from kd.schema.cards import Card
from kd.schema.config import Reporting
from kd.study.designs import Design
from kd.tools.errors import UserError
from kd.tools.files import atomic_write, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

CAPTIONS = {
    "accuracy": "Accuracy of each method: mean, t interval and every seed.",
    "differences": "Difference to the reference, seed by seed.",
    "cost": "Accuracy against all the training time it takes; dotted: what no method beats in both.",
    "learning_curves": "Validation accuracy over epochs.",
    "accuracy_over_tasks": "Accuracy over all seen classes after each task.",
    "accuracy_matrices": "Accuracy on each task's images (columns) after each task (rows).",
}


@dataclass(frozen=True)
class Image:
    """A picture inside the page."""

    source: str
    caption: str


@dataclass(frozen=True)
class Fold:
    """What the fold-out of one method shows."""

    name: str
    mean: str
    card: Card | None
    settings: str | None
    """Of the first finished run, None where none has finished."""
    seed: int | None
    curves: str | None
    """A picture."""
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Analysis:
    """One design of the experiment's own analysis on the page."""

    section: Section[PointRecord]
    image: Image


@dataclass(frozen=True)
class Course:
    """One data set and student of the class-incremental runs on the page."""

    table: Table
    notes: str
    images: list[Image]


@dataclass(frozen=True)
class Chapter:
    """One data set and pair on the page."""

    section: Section[Line]
    images: list[Image]
    folds: list[Fold]


def write_page(
    runs_csv: str | Path,
    statistics_json: str | Path,
    figures_folder: str | Path,
    out: str | Path,
    report: Reporting,
    cards: Mapping[str, Card],
    experiment_meta: Mapping[str, Any],
    command: str = "",
    designs: Sequence[Design] = (),
    continual_json: str | Path | None = None,
) -> None:
    """Write the self-contained page: tables, figures, a fold-out a method, what is missing, provenance.

    `figures_folder` holds the PNG files of `write_figures`, and those of `write_designs` for the `designs` of the
    experiment's own analysis; run folders are read for settings and provenance. `continual_json` and the figures beside
    it are those of `write_continual`.
    """
    import jinja2

    sources = load_sources(runs_csv, statistics_json, report, cards, experiment_meta)
    groups = load_groups(runs_csv, statistics_json, report)
    records = _records(sources)
    pairs = zip(build_sections(sources), groups, strict=True)
    with styled():
        chapters = [_chapter(section, group, sources, Path(figures_folder), records) for section, group in pairs]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        meta=experiment_meta,
        question=_question(sources),
        analyses=[_analysis(design, sources, Path(figures_folder)) for design in designs],
        chapters=chapters,
        courses=_courses(continual_json, Path(figures_folder), report) if continual_json else [],
        problems=_problems(sources),
        provenance=_provenance(sources, list(records.values()), command),
        recipe=_pretty(experiment_meta.get("recipe", {})),
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


def _records(sources: Sources) -> dict[str, Any]:
    """Return run.json of every finished run, by run folder."""
    finished = dict.fromkeys(row.path for row in sources.runs if row.status == "ok")
    return {path: _record(Path(path) / "run.json") for path in finished}


def _record(path: Path) -> Any:
    """Return a run.json; one damaged since its run was collected shows nothing."""
    try:
        return as_object(path, read_json(path))
    except UserError as error:
        log.warning("%s; its settings are not shown", error)
        return {}


def _chapter(
    section: Section[Line], group: Group, sources: Sources, folder: Path, records: Mapping[str, Any]
) -> Chapter:
    images = [
        _image(folder / figure_name(group.dataset, group.pair, figure, "png"), CAPTIONS[figure])
        for figure in ("accuracy", "differences", "cost", "learning_curves")
    ]
    students = [row.numbers for row in section.rows if row.numbers.role == "student"]
    return Chapter(section, images, [_fold(line, group, sources.cards, records) for line in students])


def _analysis(design: Design, sources: Sources, folder: Path) -> Analysis:
    """Return what the page shows of one design: its table and its figure."""
    path = folder / figure_name(design.dataset, design.folder, design.kind, "png")
    section = design_section(sources.runs, design, sources.report, sources.meta)
    return Analysis(section, _image(path, f"{section.dataset}: {section.pair}."))


def _courses(continual_json: str | Path, folder: Path, report: Reporting) -> list[Course]:
    """Return what the page shows of the class-incremental runs."""
    courses = []
    for table in as_tables([read_record(content) for content in read_json(Path(continual_json))["summaries"]]):
        paths = {name: folder / figure_name(table.dataset, "continual", name, "png") for name in CONTINUAL_FIGURES}
        images = [_image(path, CAPTIONS[name]) for name, path in paths.items()]
        courses.append(Course(table, notes(report.confidence), images))
    return courses


def _image(path: Path, caption: str) -> Image:
    if not path.is_file():
        raise UserError(f"{path} does not exist, and the page shows it")
    return Image(_data_uri(path.read_bytes()), caption)


def _fold(line: Line, group: Group, cards: Mapping[str, Card], records: Mapping[str, Any]) -> Fold:
    record = line.record
    rows = sorted(group.runs.get(record.method, []), key=lambda row: row.seed)
    figure = method_curves(group, record.method) if rows else None
    return Fold(
        name=record.method,
        mean=text.decimal(record.mean),
        card=cards.get(record.base_method),
        settings=_pretty(records[rows[0].path].get("settings", {})) if rows else None,
        seed=rows[0].seed if rows else None,
        curves=_data_uri(_png(figure)) if figure else None,
        facts=_facts(line),
    )


def _facts(line: Line) -> list[tuple[str, str]]:
    """Return names and values of what else was measured and what it cost, means over the finished seeds."""
    return [(fact, text.amounts(line.means, found, " + ")) for fact, found in measures.together("fact").items()]


def _problems(sources: Sources) -> list[RunRow]:
    """Return the rows of the runs without result."""
    return [row for row in sources.runs if row.status != "ok"]


def _provenance(sources: Sources, records: Sequence[Mapping[str, Any]], command: str) -> list[tuple[str, str]]:
    """Return names and values of the footer; what differs between runs is listed in full."""
    git = [_git(record.get("git")) for record in records]
    finished = sum(row.status == "ok" for row in sources.runs)
    facts = [
        ("Command", command),
        ("Seeds", text.listing([str(seed) for seed in sources.meta["seeds"]])),
        ("Seed of the teachers", str(sources.meta.get("teacher_seed", "same"))),
        ("Classes of a class_subset", _distinct([", ".join(record.get("classes") or []) for record in records])),
        ("Runs", f"{finished} finished of {len(sources.runs)} rows in runs.csv"),
        ("Devices", _distinct([row.device for row in sources.runs])),
        ("Number formats and kernels", _distinct([_made(row) for row in sources.runs])),
        ("Versions", _distinct([_pairs(record.get("versions") or {}) for record in records])),
        ("Git", _distinct([one for one in git if one])),
    ]
    return [(name, value) for name, value in facts if value]


def _made(row: RunRow) -> str:
    """Return how a run was trained and evaluated, empty where its record does not say."""
    evaluated = f", evaluated in {row.eval_precision}" if row.eval_precision else ""
    return f"{row.precision}, {row.kernels}{evaluated}" if row.precision else ""


def _git(state: Any) -> str:
    known = {name: value for name, value in (state or {}).items() if value is not None}
    return f"{known['commit']}{' with uncommitted changes' if known.get('dirty') else ''}" if "commit" in known else ""


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _distinct(values: Sequence[str]) -> str:
    return " | ".join(dict.fromkeys(value for value in values if value))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()

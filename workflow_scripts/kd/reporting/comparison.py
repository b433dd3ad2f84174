"""The comparison table as data: which rows, which cells, what is bold, what needs a footnote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kd.analysis import measures
from kd.analysis.compared import Difference, Statistics, read_statistics
from kd.analysis.measures import Total
from kd.analysis.networks import Networks, read_networks
from kd.analysis.placed import MethodRecord
from kd.analysis.published import published_beside
from kd.analysis.rows import RunRow
from kd.analysis.runs import CONTROL, LINK, TEACHER, by_group, distinct, grouped, read_runs
from kd.analysis.trials import Trial, read_trials
from kd.reporting import text
from kd.reporting.caption import BASELINE, any_apart, caption_of, latency_sentence, mixed_formats, p_is_told
from kd.reporting.lines import Beside, Line, Row, Section
from kd.schema.cards import Card
from kd.schema.config import Reporting

PUBLISHED = {"last": "Published (last epoch)", "best": "Published (best test epoch)"}


@dataclass(frozen=True)
class Sources:
    """What every section is made from."""

    runs: list[RunRow]
    statistics: Statistics
    report: Reporting
    cards: Mapping[str, Card]
    meta: Mapping[str, Any]
    networks: Networks
    trials: Sequence[Trial] = ()
    """Of searches, where there are some."""


def load_sources(
    runs_csv: str | Path,
    statistics_json: str | Path,
    report: Reporting,
    cards: Mapping[str, Card],
    experiment_meta: Mapping[str, Any],
    trials_csv: str | Path | None = None,
    networks_json: str | Path | None = None,
) -> Sources:
    """Read what the tables and the page are made from."""
    trials = read_trials(trials_csv) if trials_csv else ()
    known = read_runs(runs_csv), read_statistics(statistics_json)
    return Sources(*known, report, cards, experiment_meta, read_networks(networks_json), trials)


def build_sections(sources: Sources) -> list[Section[Line]]:
    """Return one section per (dataset, pair), in the order of the runs."""
    differences, runs = by_group(sources.statistics.differences), by_group(sources.runs)
    controls = by_group(sources.statistics.controls)
    return [
        _section(sources, records, differences.get(group, []), controls.get(group, []), runs[group])
        for group, records in by_group(sources.statistics.methods).items()
    ]


def _section(
    sources: Sources,
    records: Sequence[MethodRecord],
    differences: Sequence[Difference],
    controls: Sequence[Difference],
    runs: Sequence[RunRow],
) -> Section[Line]:
    report, (dataset, pair) = sources.report, records[0].group
    # a pair may have several teachers of its own, which share their method
    own = grouped(runs, lambda row: (row.method, row.student))
    compared = grouped(differences, lambda one: one.method)
    # a teacher's row, of which there may be several, and a link's have none
    control = {("student", one.method): one for one in controls}
    lines = sorted(
        (
            replace(
                _line(sources, record, compared.get(record.method, []), own[record.method, record.student]),
                control=control.get((record.role, record.method)),
            )
            for record in records
        ),
        key=lambda line: _order(line, report),
    )
    references = [name for name in report.references if any(line.record.method == name for line in lines)]
    families = {name: [one for one in differences if one.reference == name] for name in references}
    families |= {CONTROL: list(controls)} if controls else {}
    tested = [name for name, family in families.items() if p_is_told(family, report.confidence)]
    apart = any_apart([line for line in lines if line.role == "student"])
    rows: list[Row[Line]] = []
    notes: list[tuple[str, str]] = []
    for line in lines:
        marks, texts = _lost(line.record, len(notes))
        notes += list(zip(marks, texts, strict=True))
        rows.append(Row(line, _cells(line, references, report), apart and line.record.tied_with_best is True, marks))
    notes += [("", sentence) for line in lines for sentence in _measured_notes(line, report)]
    notes += [("", sentence) for line in lines for sentence in _published_sources(line)]
    caption = caption_of(dataset, report, sources.meta, lines, list(families.values()))
    return Section(
        dataset,
        pair,
        " ".join(filter(None, [caption, latency_sentence(sources.networks)])),
        _columns(report, list(families), lines, tested),
        rows,
        notes,
        mixed_formats(lines),
        _main(list(families), tested) + _sizes(sources),
    )


def _order(line: Line, report: Reporting) -> tuple[int, float, str]:
    """Return the sort key: teachers, the baseline, the methods by mean, links; those without a number last of each."""
    record = line.record
    rank = {TEACHER: 0, LINK: 3}.get(record.role, 1 if record.base_method == BASELINE else 2)
    gain = measures.compared_by(report.weights).gain
    return rank, float("inf") if record.mean is None else -gain(record.mean), record.method


def _line(sources: Sources, record: MethodRecord, differences: Sequence[Difference], runs: Sequence[RunRow]) -> Line:
    finished = [row for row in distinct(runs) if row.status == "ok"]
    means = _means(finished) | _deployed(finished, sources.networks)
    return Line(
        record=record,
        means=means,
        devices=sorted({row.device for row in finished} - {""}),
        made=sorted({row.made for row in finished if row.precision}),
        differences={one.reference: one for one in differences},
        published=_published(sources, record, means),
    )


def _means(finished: Sequence[RunRow]) -> dict[str, float | None]:
    """Return the means of what was measured over the finished seeds, then their totals, by name."""
    columns = {measure.column: _mean(finished, measure.column) for measure in measures.measures()}
    means = {measure.name: columns[measure.column] for measure in measures.measures() if measure.name}
    totals = [measure for measure in measures.shown() if isinstance(measure, Total)]
    return means | {total.name: _sum([columns[part] for part in total.parts]) for total in totals}


def _deployed(finished: Sequence[RunRow], networks: Networks) -> dict[str, float | None]:
    """Return what the networks of the finished seeds take where they are deployed, unknown if one of them is."""
    found = [networks.of(row.path) for row in finished]
    known = [one for one in found if one is not None]
    whole = known and len(known) == len(found)
    return {
        one.name: float(f"{np.mean([network.number(one.key) for network in known]):.10g}") if whole else None
        for one in measures.deployed()
    }


def _mean(finished: Sequence[RunRow], column: str) -> float | None:
    """Return the mean over finished seeds, unknown if any of them does not know it."""
    values = [row.number(column) for row in finished]
    known = [value for value in values if value is not None]
    return float(f"{np.mean(known):.10g}") if known and len(known) == len(values) else None


def _sum(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _published(sources: Sources, record: MethodRecord, means: Mapping[str, float | None]) -> dict[str, Beside]:
    """Return the published numbers beside a method as its card has it; a variant of it has none."""
    name = BASELINE if record.role == TEACHER else record.method  # a teacher is a network trained with plain CE
    card = sources.cards.get(name)
    student, teachers = _scratch_architectures(sources.meta, record)
    variant = record.role == "student" and name != record.base_method
    known = [teacher for teacher in teachers if teacher is not None]
    if card is None or variant or student is None or len(known) < len(teachers):
        return {}
    dataset = sources.meta["datasets"].get(record.dataset, {})
    # like beside like, never mixed
    ours = {str(measure.published): means[measure.name] for measure in measures.measures() if measure.published}
    return {
        label: Beside(top1=entry.top1, difference=_minus(ours.get(label), entry.top1), source=entry.source)
        for label, entry in published_beside(card.published, dataset, known, student).items()
    }


def _minus(ours: float | None, theirs: float) -> float | None:
    return None if ours is None else round(ours - theirs, 6)


def _scratch_architectures(meta: Mapping[str, Any], record: MethodRecord) -> tuple[str | None, list[str | None]]:
    """Return the architectures of student and teachers; None for pretrained weights and for a share of the classes."""
    special = {*meta.get("pretrained", []), *meta.get("class_shares", [])}

    def architecture(name: str) -> str | None:
        return None if name in special else meta.get("archs", {}).get(name, name)

    names = [] if record.teachers in {"none", ""} else record.teachers.split("+")
    return architecture(record.student), [architecture(name) for name in names]


def _columns(
    report: Reporting, references: Sequence[str], lines: Sequence[Line], tested: Sequence[str]
) -> dict[str, str]:
    """Return the headings by key, those of `_main` first; `tested` are the references whose p can get small."""
    main = measures.compared_by(report.weights)
    other = measures.compared_by("last" if report.weights == "best" else "best")
    columns = {"method": "Method", "accuracy": main.title, "n": "n"}
    for name in references:
        columns |= {f"delta_{name}": f"Δ {name}"} | ({f"p_{name}": f"p (Holm, {name})"} if name in tested else {})
    columns |= {heading: heading for heading in _main_headings()}
    labels = {label for line in lines for label in line.published}
    columns |= {f"published_{label}": heading for label, heading in PUBLISHED.items() if label in labels}
    for name in references:
        columns |= {f"verdict_{name}": f"Beside {name}"} if report.rope else {}
        columns |= {f"won_{name}": f"Ahead of {name}", f"seeds_{name}": f"Seeds for {report.detect:g} ({name})"}
    unknown = {one.heading for one in measures.deployed() if all(line.means[one.name] is None for line in lines)}
    headings = [heading for heading in (other.heading, *measures.together("heading")) if heading != main.heading]
    headings = [heading for heading in headings if heading not in unknown]
    return columns | {heading: heading for heading in headings if heading not in columns}


def _main_headings() -> list[str]:
    """Return the headings of the measures that matter."""
    return [heading for heading, found in measures.together("heading").items() if any(one.main for one in found)]


def _main(references: Sequence[str], tested: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of the columns that matter; the others are for whom wants them."""
    compared = [key for name in references for key in (f"delta_{name}", *([f"p_{name}"] if name in tested else []))]
    return ("method", "accuracy", "n", *compared, *_main_headings(), *(f"published_{label}" for label in PUBLISHED))


def _sizes(sources: Sources) -> tuple[str, ...]:
    """Return the headings of what deployed students take, which matters where it is not the same for all."""
    students = [row.path for row in sources.runs if row.method != TEACHER]
    return tuple(one.heading for one in measures.deployed() if one.counted and sources.networks.differ(students))


def _cells(line: Line, references: Sequence[str], report: Reporting) -> dict[str, str]:
    record = line.record
    cells = {
        "method": record.method if record.role == "student" else f"{record.method}: {record.student}",
        "accuracy": text.spread(record.mean, record.sd),
        "n": str(record.n_used) if record.complete else f"{record.n_used} of {record.n_planned}",
    }
    cells |= {
        heading: text.amounts(line.means, found, " / ") for heading, found in measures.together("heading").items()
    }
    for name in references:
        cells |= {f"{key}_{name}": cell for key, cell in _difference(line, name).items()}
    cells |= {f"{key}_{CONTROL}": cell for key, cell in _compared(line.control).items()}
    return cells | {f"published_{label}": _beside(line.published.get(label)) for label in PUBLISHED}


def _difference(line: Line, reference: str) -> dict[str, str]:
    """Return the cells of what is compared with a reference; empty where a difference makes no sense."""
    if line.role != "student" or line.record.method == reference:
        return _compared(None)
    return _compared(line.differences[reference])


def _compared(one: Difference | None) -> dict[str, str]:
    if one is None:
        return dict.fromkeys(("delta", "p", "verdict", "won", "seeds"), "")
    pairs = f" (n = {one.n})" if 0 < one.n < one.n_planned else ""
    return {
        "delta": f"{text.signed(one.mean)} {text.interval(one.low, one.high)}".rstrip() + pairs,
        "p": text.p_value(one.p_holm),
        "verdict": one.verdict or text.NONE,
        "won": text.share(one.won, one.won_low, one.won_high),
        "seeds": text.NONE if one.seeds_needed is None else f"{one.seeds_needed:,}",
    }


def _beside(published: Beside | None) -> str:
    if published is None:
        return ""
    difference = published.difference
    return text.decimal(published.top1) + ("" if difference is None else f" ({text.signed(difference)})")


def _lost(record: MethodRecord, already: int) -> tuple[list[str], list[str]]:
    """Return footnote marks and texts for the seeds without result, one per reason."""
    reasons = grouped(record.unused, lambda one: (one.status, one.reason))
    texts = [
        f"{_name(record)}, {text.seed_list([one.seed for one in lost])} {status}: {reason}"
        for (status, reason), lost in reasons.items()
    ]
    return [_mark(already + index) for index in range(len(texts))], texts


def _name(record: MethodRecord) -> str:
    return record.method if record.role == "student" else f"{record.method} {record.student}"


def _mark(index: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    letters = ""
    index += 1
    while index:
        index, place = divmod(index - 1, 26)
        letters = chr(ord("a") + place) + letters
    return letters


def _measured_notes(line: Line, report: Reporting) -> list[str]:
    """Return the sentences of measures that have one, of the weights that the report is about."""
    noted = [one for one in measures.measures() if one.note and one.weights in (None, report.weights)]
    values = {one.note: text.amount(line.means[one.name], one) for one in noted if line.means[one.name] is not None}
    return [f"{_name(line.record)}: {note.format(value=value)}" for note, value in values.items()]


def _published_sources(line: Line) -> list[str]:
    name = _name(line.record)
    return [f"{name}, published ({label} epoch): {one.source}" for label, one in line.published.items()]

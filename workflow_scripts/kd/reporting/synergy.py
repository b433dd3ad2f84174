"""The diagnosis of a synergy as tables: what its chains came to, what students reached, half-stage by half-stage."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.analysis.designs import PointRecord, design_records
from kd.analysis.diagnosis import SPLITS, Outcome, SourceRecord, Spread, outcomes, source_records
from kd.analysis.rows import RunRow
from kd.analysis.runs import grouped
from kd.analysis.synergy import ASKED, GIVEN, MEASURES, NAMES, TEACHER_UPDATE, Found, Place
from kd.reporting import text
from kd.reporting.caption import described, seeds_sentence, teacher_sentence
from kd.reporting.designs import design_section
from kd.reporting.lines import Row, Section
from kd.schema.config import Reporting
from kd.study.designs import Design
from kd.tools.csv_files import csv_text

LABELS = {"certainty": "certainty-weighted"}
"""Of sources that are called otherwise in the configuration."""
DIGITS = {measure.name: measure.digits for measure in MEASURES}
PLACE = ["dataset", "kind", "pair", "method", "split", "stage", "half", "what", "source", "n_planned", "n_used"]
SPREAD = ["", "_sd", "_low", "_high"]
MOST_SAID = 3
"""Chains of which a caption tells in words."""


def synergy_sections(
    found: Sequence[Found], runs: Sequence[RunRow], design: Design, report: Reporting, meta: Mapping[str, Any]
) -> list[Section[Any]]:
    """Return the tables of one design, that of the outcomes first."""
    records = source_records(found, runs, design, report)
    shown = [one for one in records if not _as_given(one, records)]
    sections: list[Section[Any]] = [_outcomes(records, runs, design, report, meta)]
    if design.points:
        sections.append(design_section(runs, design, report, meta))
    for (method, split), members in grouped(shown, lambda one: (one.method, one.split)).items():
        place = f"{design.folder}, {method} on {SPLITS[split]} images"
        sections.append(_answers(place, members, design, report, meta))
        sections.append(_targets(place, members, design, report, meta))
    return sections


def _as_given(one: SourceRecord, records: Sequence[SourceRecord]) -> bool:
    """Whether a stage left the teachers of a source as they were given, so that it need not be told of again."""
    if one.stage == 0 or one.what in ASKED:
        return False
    place = (one.method, one.split, 0, one.source)
    given = next(other for other in records if (other.method, other.split, other.stage, other.source) == place)
    return all(one.means[name] == spread for name, spread in given.means.items())


# --- outcomes -------------------------------------------------------------------------------------


def _outcomes(
    records: Sequence[SourceRecord],
    runs: Sequence[RunRow],
    design: Design,
    report: Reporting,
    meta: Mapping[str, Any],
) -> Section[Outcome]:
    """Return a row a chain and kind of images: its last synergy beside the average of the teachers as given."""
    found = outcomes(records)
    columns = {"method": "Method", "images": "Images", "delta_top1": "Δ top-1", "held": "Held", "delta_nll": "Δ NLL"}
    columns |= {"off_label": "Off label"}
    here = [run for run in runs if run.group == (design.dataset, design.folder)]
    own = [run for run in here if run.method in design.chains]
    sentences = [
        *_said(found),
        f"The synergy that the last stage's student learned from, on images of {described(design.dataset, meta)}, "
        "minus the average of its teachers' logits before the chain has changed them (points and nats).",
        _alone([one.bar for one in found]),
        _seeds(own, report),
        "Held: in so many stages and seeds the synergy was at least as accurate as that average.",
        f"{_softened(report)} In brackets: the average's.",
        teacher_sentence(meta, [run.teachers for run in own]),
    ]
    rows = [Row(one, _outcome_cells(one), bold=False) for one in found]
    notes = [("", sentence) for name in design.chains for sentence in _lost(name, records, own)]
    title = f"{design.folder}, synergy and average"
    return Section(design.dataset, title, _joined(sentences), columns, rows, notes)


def _outcome_cells(one: Outcome) -> dict[str, str]:
    last = one.last
    return {
        "method": last.method,
        "images": last.split,
        "delta_top1": _delta(last, "top1", 1),
        "held": f"{one.held} of {one.of}",
        "delta_nll": text.signed(last.value("delta_nll")),
        "off_label": f"{_off_label(last)} ({_off_label(one.bar)})",
    }


def _said(found: Sequence[Outcome]) -> list[str]:
    """Return in words where each chain's synergy wins and loses."""
    told = list(grouped(found, lambda one: one.last.method).values())
    return [_sentence({one.last.split: one for one in members}) for members in told[:MOST_SAID]]


def _sentence(by_split: Mapping[str, Outcome]) -> str:
    first = next(iter(by_split.values())).last
    parts = [
        f"{_delta(one.last, 'top1', 1)} points and {text.signed(one.last.value('delta_nll'))} nats on {SPLITS[split]} "
        "images"
        for split, one in by_split.items()
    ]
    stage = f"{first.method}, stage {first.stage}"
    sentence = f"{stage}: the synergy minus the average of its teachers is {text.listing(parts)}."
    target = by_split.get("train")
    if target is None:
        return sentence
    return (
        f"{sentence} Of its targets for the student {_off_label(target.last)} % is off the label, of the average's "
        f"{_off_label(target.bar)} %."
    )


def _lost(name: str, records: Sequence[SourceRecord], runs: Sequence[RunRow]) -> list[str]:
    """Return which seeds of a chain say nothing, and why."""
    told = {seed for one in records if one.method == name for seed in one.seeds}
    own = [run for run in runs if run.method == name]
    unread = [run.seed for run in own if run.status == "ok" and run.seed not in told]
    found = [f"{name}, seed {run.seed} {run.status}: {run.reason}" for run in own if run.status != "ok"]
    return found + ([f"{name}, {text.seed_list(unread)}: no predictions of its half-stages."] if unread else [])


# --- half-stages ----------------------------------------------------------------------------------


def _answers(
    place: str, records: Sequence[SourceRecord], design: Design, report: Reporting, meta: Mapping[str, Any]
) -> Section[SourceRecord]:
    """Return what each source answers: how often and how surely it is right."""
    columns = {"method": "Source", "stage": "Stage", "top1": "Top-1", "delta_top1": "Δ top-1"}
    columns |= {"delta_nll": "Δ NLL"}
    sentences = [
        f"Top-1 accuracy (%) and negative log-likelihood (nats) on {described(design.dataset, meta)}: means over "
        "seeds.",
        _deltas(records, report),
        _stages(),
    ]
    rows = [Row(one, _answer_cells(one), bold=False) for one in records if one.what != "pair"]
    return Section(design.dataset, f"{place}: answers", _joined(sentences), columns, rows, [])


def _answer_cells(one: SourceRecord) -> dict[str, str]:
    return {
        "method": _label(one),
        "stage": _stage(one),
        "top1": text.decimal(one.value("top1")),
        "delta_top1": _delta(one, "top1", 1),
        "delta_nll": _delta(one, "nll", 2),
    }


def _targets(
    place: str, records: Sequence[SourceRecord], design: Design, report: Reporting, meta: Mapping[str, Any]
) -> Section[SourceRecord]:
    """Return what each source holds beside the label, and how like the average it is."""
    told = [measure for measure in MEASURES if measure.name not in ("top1", "target_entropy")]
    columns = {"method": "Source", "stage": "Stage", **{measure.name: measure.heading for measure in told}}
    sentences = [
        f"As targets on {described(design.dataset, meta)}; means over seeds. ECE: expected calibration error, a "
        "fraction of 1; NLL and Entropy (nats): at temperature 1.",
        _softened(report),
        "Agree and Corr.: share of the images (%) answered alike with the average of the teachers as given, and mean "
        "over images of the correlation with its logits, the label's left out; in a row of two teachers, of them with "
        "each other.",
        _stages(),
    ]
    rows = [Row(one, _target_cells(one), bold=False) for one in records]
    return Section(design.dataset, f"{place}: targets", _joined(sentences), columns, rows, [])


def _target_cells(one: SourceRecord) -> dict[str, str]:
    numbers = {name: text.decimal(one.value(name), DIGITS[name]) for name in NAMES}
    return {"method": _label(one), "stage": _stage(one), **numbers}


# --- in words -------------------------------------------------------------------------------------


def _label(one: Place) -> str:
    return LABELS.get(one.source, one.source) if one.what == "certainty" else one.source


def _stage(one: Place) -> str:
    if one.half == GIVEN:
        return "given"
    return f"{one.stage}, {'teachers' if one.half == TEACHER_UPDATE else 'student'}"


def _delta(one: SourceRecord, measure: str, digits: int) -> str:
    found = one.differences.get(measure)
    if found is None:
        return text.NONE
    return f"{text.signed(found.mean, digits)} {text.interval(found.low, found.high, digits)}".strip()


def _off_label(one: SourceRecord) -> str:
    return text.decimal(one.value("off_label"), DIGITS["off_label"])


def _joined(sentences: Sequence[str]) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def _stages() -> str:
    return (
        "Stage: given, before the chain; then each stage after its teachers' and after its student's half, which "
        "leaves the teachers as they are but asks them with another student. Teachers that are as given stand once."
    )


def _softened(report: Reporting) -> str:
    heat = report.analysis.temperature if report.analysis else 1.0
    return f"Off label: mean probability (%) of the classes that are not the label's, at temperature {heat:g}."


def _seeds(runs: Sequence[RunRow], report: Reporting) -> str:
    planned = {len(members) for members in grouped(runs, lambda run: run.method).values()}
    if planned == {1}:
        return seeds_sentence([1])
    return f"Means over seeds; [ ]: {100 * report.confidence:.6g}% Student t intervals of differences paired by seed."


def _alone(bars: Sequence[SourceRecord]) -> str:
    return "With one teacher the average is that teacher." if any(bar.source != "average" for bar in bars) else ""


def _deltas(records: Sequence[SourceRecord], report: Reporting) -> str:
    bar = "Δ: minus the average of the teachers as given, paired by seed"
    if not any(spread.low is not None for one in records for spread in one.differences.values()):
        return f"{bar}."
    return f"{bar}; [ ]: its {100 * report.confidence:.6g}% Student t interval."


# --- CSV ------------------------------------------------------------------------------------------


def as_csv(found: Sequence[Found], runs: Sequence[RunRow], designs: Sequence[Design], report: Reporting) -> str:
    """Return all designs as one CSV of plain numbers: sources of half-stages, then what students reached on test."""
    measures = [name + part for name in NAMES for part in SPREAD]
    measures += [f"difference_{name}{part}" for name in NAMES for part in ("", "_low", "_high")]
    rows: list[dict[str, Any]] = []
    for design in designs:
        rows += [_flat(design, record) for record in source_records(found, runs, design, report)]
        rows += [_flat(design, record) for record in design_records(runs, design, report)]
    return csv_text(rows, [*PLACE, *measures])


def _flat(design: Design, record: SourceRecord | PointRecord) -> dict[str, Any]:
    if isinstance(record, PointRecord):
        own: dict[str, Any] = {"split": "test", "what": "reached", "source": record.line, "n_used": record.n_used}
        told: dict[str, Any] = {"top1": record}
        paired: dict[str, Any] = {"top1": record.difference} if record.difference else {}
    else:
        keys = ("split", "stage", "half", "what", "source")
        own = {key: getattr(record, key) for key in keys} | {"n_used": len(record.seeds)}
        told, paired = dict(record.means), dict(record.differences)
    found: dict[str, Any] = {
        "dataset": design.dataset,
        "kind": design.kind,
        "pair": record.pair,
        "method": record.method,
    }
    found |= {"n_planned": record.n_planned, **own}
    for name, one in told.items():
        found |= _numbers(name, one, ("sd", "low", "high"))
    for name, one in paired.items():
        found |= _numbers(f"difference_{name}", one, ("low", "high"))
    return found


def _numbers(name: str, one: Spread | PointRecord, more: Sequence[str]) -> dict[str, float | None]:
    return {name: one.mean, **{f"{name}_{key}": getattr(one, key) for key in more}}

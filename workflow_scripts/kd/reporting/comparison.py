"""The comparison table as data: which rows, which cells, what is bold, what needs a footnote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kd.analysis.published import published_beside
from kd.analysis.runs import LINK, MADE, TEACHER, RunRow, by_group, distinct, grouped, read_runs
from kd.reporting import text
from kd.reporting.caption import BASELINE, Raw, caption_of, mixed_formats
from kd.schema.cards import Card
from kd.schema.config import Reporting
from kd.tools.files import read_json

MEANS = {  # key of a row -> column of runs.csv averaged over the finished seeds
    "mean_last_epoch": "test_top1_last",
    "mean_selected_epoch": "test_top1_best",
    "mean_tracked_max": "test_top1_tracked_max",
    "test_top5": "test_top5_best",
    "test_nll": "test_nll_best",
    "test_ece": "test_ece_best",
    "agreement": "agreement_best",
    "ensemble_last": "ensemble_top1_last",
    "ensemble_best": "ensemble_top1_best",
    "train_seconds": "train_seconds",
    "teacher_seconds": "teacher_seconds",
    "pretrain_seconds": "pretrain_seconds",
    "peak_memory_mb": "peak_memory_mb",
    "train_flops": "train_flops",
    "teacher_flops": "teacher_flops",
    "pretrain_flops": "pretrain_flops",
    "student_params": "student_params",
    "extra_params_train": "extra_params_train",
    "extra_params_inference": "extra_params_inference",
}


@dataclass(frozen=True)
class Row:
    """One line of the table: its numbers (`raw`) and its cells as read, by column key."""

    raw: Raw
    cells: dict[str, str]
    bold: bool
    marks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """The table of one data set and one pair."""

    dataset: str
    pair: str
    caption: str
    columns: dict[str, str]
    """Key -> heading."""
    rows: list[Row]
    notes: list[tuple[str, str]]
    """Mark (or '') and text, for what failed or is missing and for the sources of published numbers."""
    warning: str = ""
    """What a reader must not miss, above the table."""


@dataclass(frozen=True)
class Sources:
    """What every section is made from."""

    runs: list[RunRow]
    statistics: Mapping[str, Any]
    report: Reporting
    cards: Mapping[str, Card]
    meta: Mapping[str, Any]


def load_sources(
    runs_csv: str | Path,
    statistics_json: str | Path,
    report: Reporting,
    cards: Mapping[str, Card],
    experiment_meta: Mapping[str, Any],
) -> Sources:
    """Read what the tables and the page are made from."""
    return Sources(read_runs(runs_csv), read_json(statistics_json, sealed=True), report, cards, experiment_meta)


def build_sections(sources: Sources) -> list[Section]:
    """Return one section a (dataset, pair), in the order of the runs."""
    records, differences = (by_group(sources.statistics[kind]) for kind in ("methods", "differences"))
    runs = by_group(sources.runs)
    return [_section(sources, group, records[group], differences.get(group, []), runs[group]) for group in records]


def _section(
    sources: Sources, group: tuple[str, str], records: Sequence[Raw], differences: Sequence[Raw], runs: Sequence[RunRow]
) -> Section:
    dataset, pair = group
    own = grouped(runs, _trained)
    compared = grouped(differences, lambda one: one["method"])
    raws = sorted(
        (_raw(sources, record, compared.get(record["method"], []), own[_trained(record)]) for record in records),
        key=_order,
    )
    references = [name for name in sources.report.references if any(raw["method"] == name for raw in raws)]
    columns = _columns(sources.report, references, raws)
    rows: list[Row] = []
    notes: list[tuple[str, str]] = []
    for raw in raws:
        marks, texts = _lost(raw, len(notes))
        notes += list(zip(marks, texts, strict=True))
        rows.append(Row(raw, _cells(raw, references, sources.report), raw["tied_with_best"] is True, marks))
    notes += [("", sentence) for raw in raws for sentence in _ensemble(raw, sources.report)]
    notes += [("", sentence) for raw in raws for sentence in _published_sources(raw)]
    caption = caption_of(dataset, sources.report, sources.meta, raws, differences)
    return Section(dataset, pair, caption, columns, rows, notes, mixed_formats(raws))


def _order(raw: Raw) -> tuple[int, float, str]:
    """Return the sort key: teachers, the baseline, the methods by mean, links; those without a number last of each."""
    rank = {TEACHER: 0, LINK: 3}.get(raw["role"], 1 if raw["base_method"] == BASELINE else 2)
    return rank, float("inf") if raw["mean"] is None else -raw["mean"], raw["method"]


def _trained(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the runs of one row of the table share: a pair may have several teachers of its own."""
    return row["method"], row["student"]


def _raw(sources: Sources, record: Raw, differences: Sequence[Raw], runs: Sequence[RunRow]) -> Raw:
    finished = [row for row in distinct(runs) if row["status"] == "ok"]
    raw: Raw = record | {key: _mean(finished, column) for key, column in MEANS.items()}
    raw["total_seconds"] = _sum(raw, "seconds")
    raw["total_flops"] = _sum(raw, "flops")
    raw["devices"] = sorted({row["device"] for row in finished} - {""})
    raw["made"] = sorted({tuple(row[key] for key in MADE) for row in finished if row["precision"]})
    raw["differences"] = {one["reference"]: one for one in differences}
    raw["published"] = _published(sources, raw)
    return raw


def _mean(finished: Sequence[RunRow], column: str) -> float | None:
    """Return the mean over finished seeds, unknown if any of them does not know it."""
    values = [row[column] for row in finished]
    return float(f"{np.mean(values):.10g}") if values and None not in values else None


def _sum(raw: Raw, unit: str) -> float | None:
    parts = [raw[f"{stage}_{unit}"] for stage in ("train", "teacher", "pretrain")]
    return None if None in parts else sum(parts)


def _published(sources: Sources, raw: Raw) -> dict[str, Raw]:
    """Return the published numbers beside a method as its card has it; a variant of it has none."""
    name = BASELINE if raw["role"] == "teacher" else raw["method"]  # a teacher is a network trained with plain CE
    card = sources.cards.get(name)
    student, teachers = _scratch_architectures(sources.meta, raw)
    variant = raw["role"] == "student" and name != raw["base_method"]
    known = [teacher for teacher in teachers if teacher is not None]
    if card is None or variant or student is None or len(known) < len(teachers):
        return {}
    dataset = sources.meta["datasets"].get(raw["dataset"], {})
    ours = {"last": raw["mean_last_epoch"], "best": raw["mean_tracked_max"]}  # like beside like, never mixed
    return {
        label: {
            "top1": entry.top1,
            "difference": None if ours[label] is None else round(ours[label] - entry.top1, 6),
            "source": entry.source,
        }
        for label, entry in published_beside(card.published, dataset, known, student).items()
    }


def _scratch_architectures(meta: Mapping[str, Any], raw: Raw) -> tuple[str | None, list[str | None]]:
    """Return the architectures of student and teachers; None for pretrained weights and for a share of the classes."""
    special = {*meta.get("pretrained", []), *meta.get("class_shares", [])}

    def architecture(name: str) -> str | None:
        return None if name in special else meta.get("archs", {}).get(name, name)

    names = [] if raw["teachers"] in {"none", ""} else raw["teachers"].split("+")
    return architecture(raw["student"]), [architecture(name) for name in names]


def _columns(report: Reporting, references: Sequence[str], raws: Sequence[Raw]) -> dict[str, str]:
    columns = {"method": "Method", "accuracy": "Test top-1 (%)", "n": "n"}
    columns["other"] = "Last epoch" if report.weights == "best" else "Validation-selected"
    for name in references:
        columns |= {f"delta_{name}": f"Δ {name}", f"p_{name}": f"p (Holm, {name})"}
    columns |= {"train": "Train time", "total": "Total time", "memory": "Peak memory", "flops": "Training FLOPs"}
    columns["extra"] = "Extra parameters (train / inference)"
    labels = {label for raw in raws for label in raw["published"]}
    headings = {"last": "Published (last epoch)", "best": "Published (best test epoch)"}
    return columns | {f"published_{label}": heading for label, heading in headings.items() if label in labels}


def _cells(raw: Raw, references: Sequence[str], report: Reporting) -> dict[str, str]:
    other = raw["mean_last_epoch" if report.weights == "best" else "mean_selected_epoch"]
    cells = {
        "method": raw["method"] if raw["role"] == "student" else f"{raw['method']}: {raw['student']}",
        "accuracy": _accuracy(raw),
        "n": str(raw["n_used"]) if raw["complete"] else f"{raw['n_used']} of {raw['n_planned']}",
        "other": text.decimal(other),
        "train": text.duration(raw["train_seconds"]),
        "total": text.duration(raw["total_seconds"]),
        "memory": text.quantity(None if raw["peak_memory_mb"] is None else raw["peak_memory_mb"] * 1e6, "B"),
        "flops": text.quantity(raw["total_flops"]),
        "extra": _extra(raw),
    }
    for name in references:
        cells[f"delta_{name}"], cells[f"p_{name}"] = _difference(raw, name)
    for label in ("last", "best"):
        cells[f"published_{label}"] = _beside(raw["published"].get(label))
    return cells


def _accuracy(raw: Raw) -> str:
    half = "" if raw["half_width"] is None else f" ± {text.decimal(raw['half_width'])}"
    return text.decimal(raw["mean"]) + half


def _extra(raw: Raw) -> str:
    train, inference = raw["extra_params_train"], raw["extra_params_inference"]
    return text.NONE if train is None and inference is None else f"{text.quantity(train)} / {text.quantity(inference)}"


def _difference(raw: Raw, reference: str) -> tuple[str, str]:
    """Return the cells of difference and p; empty where a difference makes no sense."""
    if raw["role"] != "student" or raw["method"] == reference:
        return "", ""
    one = raw["differences"][reference]
    pairs = f" (n = {one['n']})" if 0 < one["n"] < one["n_planned"] else ""
    delta = f"{text.signed(one['mean'])} {text.interval(one['low'], one['high'])}".rstrip() + pairs
    return delta, text.p_value(one["p_holm"])


def _beside(published: Raw | None) -> str:
    if published is None:
        return ""
    difference = published["difference"]
    return text.decimal(published["top1"]) + ("" if difference is None else f" ({text.signed(difference)})")


def _lost(raw: Raw, already: int) -> tuple[list[str], list[str]]:
    """Return footnote marks and texts for the seeds without result, one a reason."""
    reasons: dict[tuple[str, str], list[int]] = {}
    for one in raw["unused"]:
        reasons.setdefault((one["status"], one["reason"]), []).append(one["seed"])
    texts = [f"{_name(raw)}, {text.seed_list(seeds)} {status}: {reason}" for (status, reason), seeds in reasons.items()]
    return [_mark(already + index) for index in range(len(texts))], texts


def _name(raw: Raw) -> str:
    return raw["method"] if raw["role"] == "student" else f"{raw['method']} {raw['student']}"


def _mark(index: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    letters = ""
    index += 1
    while index:
        index, place = divmod(index - 1, 26)
        letters = chr(ord("a") + place) + letters
    return letters


def _ensemble(raw: Raw, report: Reporting) -> list[str]:
    mean = raw[f"ensemble_{report.weights}"]
    if mean is None:
        return []
    return [f"{_name(raw)}: the mean of all its generations' probabilities reaches {text.decimal(mean)} % test top-1."]


def _published_sources(raw: Raw) -> list[str]:
    name = _name(raw)
    return [f"{name}, published ({label} epoch): {one['source']}" for label, one in raw["published"].items()]

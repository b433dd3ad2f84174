"""statistics.json: of each method the mean over seeds with its interval, and the paired differences to references."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kd.analysis import measures
from kd.analysis.across import Across, compare_across, read_across
from kd.analysis.measures import Measure
from kd.analysis.placed import Against, Lost, MethodRecord, Placed
from kd.analysis.rows import RunRow
from kd.analysis.runs import CONTROL, LINK, TEACHER, by_group, distinct, grouped, read_runs
from kd.analysis.statistics import (
    EXACT_UP_TO,
    FLIP_SEED,
    POWER,
    RANDOM_FLIPS,
    Improvement,
    PairedDifference,
    Verdict,
    holm_by,
    improvement,
    over_seeds,
    over_strata,
    paired_difference,
    seeds_needed,
    verdict,
)
from kd.schema.config import Reporting
from kd.study.controls import ENDING
from kd.tools.errors import UserError
from kd.tools.files import read_json, write_json


# The order of the bases is that of the fields in statistics.json: the last base's come first.
@dataclass(frozen=True, kw_only=True)
class Difference(PairedDifference, Improvement, Against, Placed):
    """A method minus a reference of its group, seed by seed."""

    n_planned: int
    p_holm: float | None
    holm_over: int
    """Differences that p is corrected for."""
    verdict: Verdict | None
    """Its interval against the differences that count as none; None without interval."""
    seeds_needed: int | None
    """To tell a difference of `detect` points from none, if differences vary as these seeds' do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the numbers were made."""

    weights: measures.Weights
    metric: str
    """Column of runs.csv."""
    confidence: float
    interval: str
    test: str
    correction: str
    best: str
    """How what is not told apart from the best is found."""
    rope: float
    """Differences of at most so many points count as none."""
    detect: float
    """The difference, in points, that seeds_needed are for."""
    power: float
    """The chance with which so many seeds tell it from none."""
    references: list[str]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The content of statistics.json."""

    settings: Settings
    methods: list[MethodRecord]
    differences: list[Difference]
    across: Across | None
    """What several pairs and data sets say together."""
    controls: list[Difference] = field(default_factory=list)
    """Of methods to their controls."""


def compute_statistics(runs_csv: str | Path, out: str | Path, report: Reporting) -> None:
    """Write statistics.json from runs.csv."""
    measure = measures.compared_by(report.weights)
    groups = by_group(read_runs(runs_csv)).values()
    tables = [_methods(group, measure, report.confidence) for group in groups]
    controls = [controlled(group) for group in groups]
    settings = Settings(
        weights=report.weights,
        metric=measure.column,
        confidence=report.confidence,
        interval="Student t over seeds",
        test=f"two-sided sign-flip, exact up to n = {EXACT_UP_TO}, else {RANDOM_FLIPS} flips seeded {FLIP_SEED}",
        correction="Holm over the methods of a dataset, pair and reference",
        best="paired Student t, one-sided, Bonferroni over the other methods of a dataset and pair",
        rope=report.rope,
        detect=report.detect,
        power=POWER,
        references=list(report.references),
    )
    records = [record for table in tables for record in table]
    statistics = Statistics(
        settings=settings,
        methods=records,
        differences=[one for table in tables for one in _differences(table, measure, report)],
        across=compare_across(records, measure, report),
        controls=[
            one
            for table, pairs in zip(tables, controls, strict=True)
            for one in _to_controls(table, pairs, measure, report)
        ],
    )
    write_json(out, asdict(statistics))


def read_statistics(path: str | Path) -> Statistics:
    """Read statistics.json. Errors: UserError for one that `compute_statistics` did not write."""
    content = read_json(path, sealed=True)
    try:
        return Statistics(
            settings=Settings(**content["settings"]),
            methods=[_method(record) for record in content["methods"]],
            differences=[Difference(**record) for record in content["differences"]],
            across=read_across(content["across"]),
            controls=[Difference(**record) for record in content.get("controls", [])],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not of this version ({error}): delete it and run again") from error


def _method(record: Mapping[str, Any]) -> MethodRecord:
    return MethodRecord(**{**record, "unused": [Lost(**one) for one in record["unused"]]})


def seed_values(rows: Sequence[RunRow], measure: Measure) -> dict[int, float]:
    """Return seed -> value of the finished runs, in the order given."""
    found = {row.seed: row.number(measure.column) for row in rows if row.status == "ok"}
    return {seed: value for seed, value in found.items() if value is not None}


def _methods(group: Sequence[RunRow], measure: Measure, confidence: float) -> list[MethodRecord]:
    """Return the records of one table: its teachers, then its methods and links, in the order of the runs."""
    teachers = distinct(row for row in group if row.method == TEACHER)
    students = [row for row in group if row.method != TEACHER]
    parts = [*grouped(teachers, lambda row: row.student).values()]
    parts += grouped(students, lambda row: row.method).values()
    return _marked([_record(part, measure, confidence) for part in parts], measure, confidence)


def _record(rows: Sequence[RunRow], measure: Measure, confidence: float) -> MethodRecord:
    rows = sorted(rows, key=lambda row: row.seed)
    first = rows[0]
    assert len({row.seed for row in rows}) == len(rows), f"two runs of {first.method} share a seed"
    values = seed_values(rows, measure)
    return MethodRecord(
        dataset=first.dataset,
        pair=first.pair,
        role=TEACHER if first.method == TEACHER else LINK if first.kind == LINK else "student",
        method=first.method,
        base_method=first.base_method,
        teachers=first.teachers,
        student=first.student,
        n_planned=len(rows),
        complete=len(values) == len(rows),
        **over_seeds(values, confidence),
        unused=[Lost(seed=row.seed, status=row.status, reason=row.reason) for row in rows if row.status != "ok"],
        is_best=False,
        tied_with_best=None,
    )


def _marked(records: Sequence[MethodRecord], measure: Measure, confidence: float) -> list[MethodRecord]:
    """Mark the best student's method and those that its seeds do not place below it.

    The best is sought among the methods with the most finished seeds, so that one lucky seed cannot win; with
    fewer than two common seeds nothing can be said, and the mark stays None. Each method is compared with the best
    mean one-sided and Bonferroni-corrected for the number of others, so that the truly best one is among the marked
    with the given confidence although the best mean was picked by looking (Hsu 1996).
    """
    scored = [record for record in records if record.role == "student" and record.n_used]
    if not scored:
        return list(records)
    most = max(record.n_used for record in scored)
    steady = [record for record in scored if record.n_used == most]
    best = max(steady, key=lambda record: measure.gain(record.mean or 0.0))

    def marked(record: MethodRecord) -> MethodRecord:
        """Return the record with its marks."""
        behind = over_strata([_gains(record, best, measure)])
        tied = None if behind is None else record is best or not behind.is_below(confidence, len(scored) - 1)
        return replace(record, is_best=record is best, tied_with_best=tied)

    return [marked(record) if record.role == "student" and record.n_used else record for record in records]


def _gains(record: MethodRecord, other: MethodRecord, measure: Measure) -> list[float]:
    """Return what a method has over another one, seed by seed, more being better."""
    return [measure.gain(value) for value in paired_difference(record.by_seed, other.by_seed, 0.95).values]


def _differences(records: Sequence[MethodRecord], measure: Measure, report: Reporting) -> list[Difference]:
    students = {record.method: record for record in records if record.role == "student"}
    found: list[Difference] = []
    for name in report.references:
        if name in students:
            others = [record for record in students.values() if record.method != name]
            found += _differences_to(students[name], others, measure, report)
    return found


def controlled(group: Sequence[RunRow]) -> dict[str, str]:
    """Return the names of methods that have a control, with the controls' names."""
    names = dict.fromkeys(row.method for row in group if row.kind == CONTROL)
    return {name.removesuffix(ENDING): name for name in names}


def _to_controls(
    records: Sequence[MethodRecord], controls: Mapping[str, str], measure: Measure, report: Reporting
) -> list[Difference]:
    """Return the differences of methods to their controls, which are corrected for each other."""
    students = {record.method: record for record in records if record.role == "student"}
    return _compared([(students[name], students[control]) for name, control in controls.items()], measure, report)


def _differences_to(
    reference: MethodRecord, others: Sequence[MethodRecord], measure: Measure, report: Reporting
) -> list[Difference]:
    return _compared([(other, reference) for other in others], measure, report)


def _compared(
    asked: Sequence[tuple[MethodRecord, MethodRecord]], measure: Measure, report: Reporting
) -> list[Difference]:
    """Return the differences of methods to the references beside them, of which each method has one."""
    pairs = [
        (other, reference, paired_difference(other.by_seed, reference.by_seed, report.confidence))
        for other, reference in asked
    ]
    adjusted = holm_by({other.method: paired.p for other, _, paired in pairs})
    return [
        Difference(
            **vars(paired),
            **vars(improvement([[measure.gain(value) for value in paired.values]], report.confidence)),
            dataset=other.dataset,
            pair=other.pair,
            method=other.method,
            reference=reference.method,
            n_planned=max(other.n_planned, reference.n_planned),
            p_holm=adjusted.get(other.method),
            holm_over=len(adjusted) if other.method in adjusted else 0,
            verdict=verdict(paired, report.rope, measure.better),
            seeds_needed=seeds_needed(paired.sd, report.detect, report.confidence),
        )
        for other, reference, paired in pairs
    ]

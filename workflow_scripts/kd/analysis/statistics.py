"""From runs to statements: t intervals over seeds, paired differences, exact tests, Holm."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kd.analysis.runs import LINK, TEACHER, RunRow, by_group, distinct, grouped, read_runs
from kd.schema.config import Reporting
from kd.tools.files import write_json

EXACT_UP_TO = 16
RANDOM_FLIPS = 10_000
FLIP_SEED = 0

Record = dict[str, Any]


def summarise(values: Sequence[float], confidence: float) -> Record:
    """Return n, mean, sd (ddof = 1) and the Student t interval of the mean.

    Fewer than two values have no sd and no interval (None); no value has no mean either.
    """
    n = len(values)
    empty: Record = {"n": n, "mean": None, "sd": None, "half_width": None, "low": None, "high": None}
    if n == 0:
        return empty
    mean = float(np.mean(values))
    if n == 1:
        return empty | {"mean": _tidy(mean)}
    sd = float(np.std(values, ddof=1))
    half = t_quantile(confidence, n - 1) * sd / math.sqrt(n)
    numbers = {"mean": mean, "sd": sd, "half_width": half, "low": mean - half, "high": mean + half}
    return {"n": n} | {key: _tidy(value) for key, value in numbers.items()}


@cache
def t_quantile(confidence: float, freedom: int) -> float:
    """Return the two-sided Student t quantile, e.g. 12.706 for 0.95 and one degree of freedom."""
    from scipy.special import stdtrit  # scipy.stats would cost a second to import

    return float(stdtrit(freedom, 0.5 + confidence / 2))


def sign_flip_p(differences: Sequence[float]) -> tuple[float, bool]:
    """Return the two-sided sign-flip p value of paired differences and whether it is exact.

    All 2^n sign patterns up to n = 16; beyond, 10,000 seeded patterns with the observed one counted among them.
    The smallest value possible is 2^(1-n).
    """
    paired = np.asarray(differences, dtype=np.float64)
    n = len(paired)
    sums = np.abs(_signs(n) @ paired)
    # Patterns as extreme as the observed one must count in spite of rounding in the last digits.
    extreme = int((sums >= abs(paired.sum()) - 1e-9 * np.abs(paired).sum()).sum())
    return (extreme / 2**n, True) if n <= EXACT_UP_TO else ((extreme + 1) / (RANDOM_FLIPS + 1), False)


@cache
def _signs(n: int) -> np.ndarray:
    """Return the sign patterns of n differences, (patterns, n); an experiment asks for those of one n all the time."""
    if n <= EXACT_UP_TO:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        bits = np.random.default_rng(FLIP_SEED).integers(0, 2, size=(RANDOM_FLIPS, n))
    return (1 - 2 * bits).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float], confidence: float) -> Record:
    """Return mean, t interval and sign-flip p of method minus reference over the seeds that both have.

    Both map seed to accuracy in percent; fewer than two common seeds give no interval and no p.
    """
    paired = _paired(values, reference)
    seeds, differences = list(paired), list(paired.values())
    p, exact = sign_flip_p(differences) if len(seeds) > 1 else (None, None)
    flips = None if exact is None else 2 ** len(seeds) if exact else RANDOM_FLIPS
    summary = summarise(differences, confidence)
    return summary | {"seeds": seeds, "values": differences, "p": p, "p_exact": exact, "flips": flips}


def _paired(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[int, float]:
    return {seed: _tidy(values[seed] - reference[seed]) for seed in sorted(values.keys() & reference.keys())}


def compute_statistics(runs_csv: str | Path, out: str | Path, report: Reporting) -> None:
    """Write statistics.json: `settings`, `methods` (one record a dataset, pair and method) and `differences`."""
    methods: list[Record] = []
    differences: list[Record] = []
    for (dataset, pair), group in by_group(read_runs(runs_csv)).items():
        identity = {"dataset": dataset, "pair": pair}
        records = _group_methods(group, report)
        methods += [identity | record for record in records]
        differences += [identity | record for record in _group_differences(records, report)]
    settings = {
        "weights": report.weights,
        "metric": f"test_top1_{report.weights}",
        "confidence": report.confidence,
        "interval": "Student t over seeds",
        "test": f"two-sided sign-flip, exact up to n = {EXACT_UP_TO}, else {RANDOM_FLIPS} flips seeded {FLIP_SEED}",
        "correction": "Holm over the methods of a dataset, pair and reference",
        "references": list(report.references),
    }
    write_json(out, {"settings": settings, "methods": methods, "differences": differences})


def _group_methods(group: Sequence[RunRow], report: Reporting) -> list[Record]:
    """Return the records of one table: its teachers, then its methods and links, in the order of the runs."""
    teachers = distinct(row for row in group if row["method"] == TEACHER)
    students = [row for row in group if row["method"] != TEACHER]
    parts = [*grouped(teachers, lambda row: row["student"]).values()]
    parts += grouped(students, lambda row: row["method"]).values()
    records = [_method_record(part, report) for part in parts]
    _mark_best([record for record in records if record["role"] == "student"], report.confidence)
    return records


def _method_record(rows: Sequence[RunRow], report: Reporting) -> Record:
    rows = sorted(rows, key=lambda row: row["seed"])
    first = rows[0]
    assert len({row["seed"] for row in rows}) == len(rows), f"two runs of {first['method']} share a seed"
    values = seed_values(rows, f"test_top1_{report.weights}")
    summary = summarise(list(values.values()), report.confidence)
    return {
        "role": TEACHER if first["method"] == TEACHER else LINK if first["kind"] == LINK else "student",
        "method": first["method"],
        "base_method": first["base_method"],
        "teachers": first["teachers"],
        "student": first["student"],
        "n_planned": len(rows),
        "n_used": summary.pop("n"),
        "complete": len(values) == len(rows),
        **summary,
        "seeds": list(values),
        "values": list(values.values()),
        "unused": _unused(rows),
        "is_best": False,
        "tied_with_best": None,
    }


def seed_values(rows: Sequence[RunRow], column: str) -> dict[int, float]:
    """Return seed -> value of the finished runs, in the order given."""
    return {row["seed"]: row[column] for row in rows if row["status"] == "ok" and row[column] is not None}


def _unused(rows: Sequence[RunRow]) -> list[Record]:
    return [{key: row[key] for key in ("seed", "status", "reason")} for row in rows if row["status"] != "ok"]


def _mark_best(records: Sequence[Record], confidence: float) -> None:
    """Mark the best method and those that the paired interval does not place below it.

    The best is sought among the methods with the most finished seeds, so that one lucky seed cannot win; with
    fewer than two common seeds nothing can be said, and the mark stays None.
    """
    scored = [record for record in records if record["n_used"]]
    if not scored:
        return
    most = max(record["n_used"] for record in scored)
    best = max((record for record in scored if record["n_used"] == most), key=lambda record: record["mean"])
    best["is_best"] = True
    for record in scored:
        difference = summarise(list(_paired(_by_seed(record), _by_seed(best)).values()), confidence)
        if difference["n"] > 1:
            record["tied_with_best"] = difference["high"] >= 0


def _group_differences(records: Sequence[Record], report: Reporting) -> list[Record]:
    students = {record["method"]: record for record in records if record["role"] == "student"}
    found: list[Record] = []
    for reference in report.references:
        if reference in students:
            others = [record for name, record in students.items() if name != reference]
            found += _differences_to(students[reference], others, report.confidence)
    return found


def _differences_to(reference: Record, others: Sequence[Record], confidence: float) -> list[Record]:
    records = [
        {"method": other["method"], "reference": reference["method"]}
        | paired_difference(_by_seed(other), _by_seed(reference), confidence)
        | {"n_planned": max(other["n_planned"], reference["n_planned"]), "p_holm": None, "holm_over": 0}
        for other in others
    ]
    tested = [record for record in records if record["p"] is not None]
    for record, adjusted in zip(tested, holm([record["p"] for record in tested]), strict=True):
        record.update(p_holm=adjusted, holm_over=len(tested))
    return records


def _by_seed(record: Record) -> dict[int, float]:
    return dict(zip(record["seeds"], record["values"], strict=True))


def _tidy(value: float) -> float:
    """Return the value without the digits in which platforms differ."""
    return float(f"{value:.10g}") + 0.0  # + 0.0 turns -0.0 into 0.0

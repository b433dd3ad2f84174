"""One row per planned run: what it reached, what it cost, or why it has no numbers."""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kd.analysis import measures
from kd.analysis.measures import Measure
from kd.analysis.per_epoch import read_metrics
from kd.analysis.records import as_object, check_numbers, check_run
from kd.analysis.rows import PlannedRun, RunRow, columns
from kd.study.made import exchanged, is_as_asked, reason_of
from kd.tools.csv_files import write_csv
from kd.tools.errors import UserError
from kd.tools.files import read_json

log = logging.getLogger(__name__)

Cache = dict[Path, Any]


def collect(runs: Iterable[Mapping[str, Any]], out_csv: str | Path) -> None:
    """Write runs.csv, one row for each planned run in the order given, whether it finished or not.

    `runs` holds the fields of a `PlannedRun` of each; accuracies are in percent, times in seconds. Numbers made from
    something else than is asked are not shown; a run without results has status failed or missing, its reason, and
    empty numbers.
    """
    cache: Cache = {}  # teachers are shared by every method: each file is read once
    write_csv(out_csv, [row_of(PlannedRun(**run), cache).cells() for run in runs], columns())


def row_of(run: PlannedRun, cache: Cache) -> RunRow:
    """Return the row of one planned run; numbers that are not known are absent, never 0."""
    folder = Path(run.path)
    try:
        record, evaluation = _read(folder / "run.json", cache), _read(folder / "evaluation.json", cache)
        problem = _problem(run, record, evaluation)
        if problem is None:
            return _finished(run, record, evaluation, cache)
    except UserError as error:
        problem = "failed", str(error)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = "failed", f"{folder} holds an incomplete record: {error}"
    status, reason = problem
    return RunRow(**run.identity(), status=status, reason=" ".join(reason.split()), path=run.path)


def _problem(run: PlannedRun, record: Any, evaluation: Any) -> tuple[str, str] | None:
    """Return status and reason of a run that has no usable result, None for one that has."""
    if record is None or evaluation is None or not _is_there(run.made):
        failure = _failure(run)
        return ("missing", _missing(run, record, evaluation)) if failure is None else ("failed", failure)
    other = next(filter(None, map(exchanged, run.made["steps"])), None)
    if other is not None:
        return "failed", f"{other} is not what its job left: delete it and run again"
    _check(Path(run.path), record, evaluation)
    if record.get("status", "ok") != "ok":
        return "failed", str(record.get("reason") or f"run.json has status {record['status']}")
    for weights in ("last", "best"):
        part, _, name = measures.compared_by(weights).key.partition(".")
        if _number(evaluation[part][name]) is None:
            return "failed", f"evaluation.json has no finite test accuracy for {weights} weights"
    return None


def _check(folder: Path, record: Any, evaluation: Any) -> None:
    """Raise a UserError that names the file of a finished run that is damaged, metrics.csv included."""
    check_run(folder / "run.json", record)
    check_numbers(folder / "evaluation.json", evaluation)
    if os.path.lexists(folder / "metrics.csv"):
        read_metrics(folder / "metrics.csv", record.get("epochs"))


def _is_there(made: Mapping[str, Any]) -> bool:
    """Whether all of a run's own jobs have results that are as asked, and the workflow found what they rest on so."""
    return made.get("there", True) and all(map(is_as_asked, made["steps"]))


def _failure(run: PlannedRun) -> str | None:
    """Return the reason that one of the run's own jobs left: of its training, a half-stage, or its evaluation."""
    for step in run.made["steps"]:
        reason = reason_of(step)
        if reason is not None:
            half = os.path.relpath(step["folder"], run.path)
            return reason if half == "." else f"{half}: {reason}"
    return None


def _missing(run: PlannedRun, record: Any, evaluation: Any) -> str:
    """Return why a run was never made: a job before it failed, or else what is not there."""
    for before in run.made["before"]:
        reason = reason_of(before)
        if reason is not None:
            return f"{before['folder']} failed before it: {reason}"
    files = (("run.json", record), ("evaluation.json", evaluation))
    absent = [name for name, value in files if value is None]
    return f"{' and '.join(absent)} not found" if absent else "made with other settings, code or data than are asked"


def _finished(run: PlannedRun, record: Mapping[str, Any], evaluation: Mapping[str, Any], cache: Cache) -> RunRow:
    """Return what a run reached and cost, and how its numbers were made."""
    files = {"run.json": record, "evaluation.json": evaluation}
    hardware = _part(record, "hardware")
    trained = _part(_part(_part(hardware, "kernels"), "student"), "trained")
    return RunRow(
        **run.identity(),
        status="ok",
        reason="",
        path=run.path,
        teacher_test_top1=_teachers(run, cache),
        device=_device(hardware),
        precision=_text(trained, "precision"),
        kernels=_text(trained, "kernels"),
        eval_precision=_text(_part(evaluation, "made"), "precision"),
        numbers={
            measure.column: _value(files[measure.file], measure.key)
            if measure.of == "run"
            else _total(measure, run, cache)
            for measure in measures.measures()
        },
    )


def _total(measure: Measure, run: PlannedRun, cache: Cache) -> float | None:
    """Return the sum over what was made for a run; none at all cost 0, and one unknown makes the sum unknown."""
    folders = run.teacher_paths if measure.of == "teachers" else run.prestage_paths
    values = [_value(_known(Path(folder) / measure.file, cache), measure.key) for folder in folders]
    return None if None in values else sum(value for value in values if value is not None)


def _value(content: Mapping[str, Any], key: str) -> float | None:
    """Return the number at a dotted place."""
    part, _, name = key.rpartition(".")
    return _number((_part(content, part) if part else content).get(name))


def _part(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return found if isinstance(found := record.get(key), dict) else {}


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300
    return value if known else None


def _text(record: Mapping[str, Any], key: str) -> str:
    return str(record.get(key) or "")


def _teachers(run: PlannedRun, cache: Cache) -> str:
    """Return the accuracies of the networks that taught a run; that of one that left no record is empty."""
    key = measures.compared_by("best").key
    scores = [_value(_known(Path(path) / "evaluation.json", cache), key) for path in run.taught_by]
    return ";".join("" if score is None else f"{score:.4f}" for score in scores)


def _device(hardware: Mapping[str, Any]) -> str:
    device = _text(hardware, "device")
    name = hardware.get("gpu") if device.startswith("cuda") else hardware.get("cpu")
    return f"{device} ({name})" if device and name else device


def _read(path: Path, cache: Cache) -> Any:
    if path not in cache:
        try:
            cache[path] = as_object(path, read_json(path)) if os.path.lexists(path) else None
        except UserError as error:
            log.warning("%s", error)
            cache[path] = error
    if isinstance(cache[path], UserError):
        raise cache[path]
    return cache[path]


def _known(path: Path, cache: Cache) -> Mapping[str, Any]:
    """Return what a stage before left; nothing where that is damaged, which is told in the stage's own row."""
    try:
        return _read(path, cache) or {}
    except UserError:
        return {}

"""One row a planned run: what it reached, what it cost, or why it has no numbers."""

import csv
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.analysis.records import as_object, check_evaluation, check_run, read_metrics
from kd.study.made import exchanged, is_as_asked, reason_of
from kd.tools.errors import UserError
from kd.tools.files import atomic_write, read_json

log = logging.getLogger(__name__)

IDENTITY = ["experiment", "dataset", "pair", "teachers", "student", "method", "base_method", "seed", "kind"]
COLUMNS = [
    *IDENTITY,
    *["status", "reason", "epochs", "best_epoch"],
    *["val_top1_last", "val_top1_best", "test_top1_last", "test_top1_best", "test_top5_last", "test_top5_best"],
    *["test_nll_best", "test_ece_best", "test_top1_tracked_max", "teacher_test_top1", "agreement_best"],
    *["ensemble_top1_last", "ensemble_top1_best"],
    *["train_seconds", "teacher_seconds", "pretrain_seconds", "device", "peak_memory_mb"],
    *["precision", "kernels", "eval_precision"],
    *["train_flops", "teacher_flops", "pretrain_flops"],
    *["student_params", "extra_params_train", "extra_params_inference", "path"],
]
SCORES = ["val_top1", "test_top1", "test_top5"]

Cache = dict[Path, Any]


def collect(runs: Sequence[Mapping[str, Any]], out_csv: str | Path) -> None:
    """Write runs.csv, one row for each planned run in the order given, whether it finished or not.

    `runs` holds IDENTITY, path, teacher_paths, prestage_paths, taught_by and made (kd.study.jobplan) of each;
    accuracies are in percent, times in seconds. Numbers made from something else than is asked are not shown; a run
    without results has status failed or missing, its reason, and empty numbers.
    """
    cache: Cache = {}  # teachers are shared by every method: each file is read once
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(row_of(run, cache) for run in runs)
    atomic_write(out_csv, buffer.getvalue())


def row_of(run: Mapping[str, Any], cache: Cache) -> dict[str, Any]:
    """Return the row of one planned run; numbers that are not known are absent, never 0."""
    row = {key: run[key] for key in IDENTITY} | {"path": str(run["path"])}
    folder = Path(run["path"])
    try:
        record, evaluation = _read(folder / "run.json", cache), _read(folder / "evaluation.json", cache)
        problem = _problem(run, record, evaluation)
        if problem is None:
            return row | {"status": "ok"} | _results(record, evaluation) | _inherited(run, cache)
    except UserError as error:
        problem = {"status": "failed", "reason": str(error)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = {"status": "failed", "reason": f"{folder} holds an incomplete record: {error}"}
    return row | problem | {"reason": " ".join(str(problem["reason"]).split())}


def _check(folder: Path, record: Any, evaluation: Any) -> None:
    """Raise a UserError that names the file of a finished run that is damaged, metrics.csv included."""
    check_run(folder / "run.json", record)
    check_evaluation(folder / "evaluation.json", evaluation)
    if os.path.lexists(folder / "metrics.csv"):
        read_metrics(folder / "metrics.csv", record.get("epochs"))


def _problem(run: Mapping[str, Any], record: Any, evaluation: Any) -> dict[str, str] | None:
    """Return status and reason of a run that has no usable result, None for one that has."""
    if record is None or evaluation is None or not _is_there(run["made"]):
        return _failure(run) or {"status": "missing", "reason": _missing(run, record, evaluation)}
    other = next(filter(None, map(exchanged, run["made"]["steps"])), None)
    if other is not None:
        return {"status": "failed", "reason": f"{other} is not what its job left: delete it and run again"}
    _check(Path(run["path"]), record, evaluation)
    if record.get("status", "ok") != "ok":
        return {"status": "failed", "reason": record.get("reason") or f"run.json has status {record['status']}"}
    unusable = [which for which in ("last", "best") if _number(evaluation[which]["test_top1"]) is None]
    if unusable:
        return {"status": "failed", "reason": f"evaluation.json has no finite test accuracy for {unusable[0]} weights"}
    return None


def _is_there(made: Mapping[str, Any]) -> bool:
    """Whether all of a run's own jobs have results that are as asked, and the workflow found what they rest on so."""
    return made.get("there", True) and all(map(is_as_asked, made["steps"]))


def _failure(run: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the reason that one of the run's own jobs left: of its training, a half-stage, or its evaluation."""
    for step in run["made"]["steps"]:
        reason = reason_of(step)
        if reason is not None:
            half = os.path.relpath(step["folder"], run["path"])
            return {"status": "failed", "reason": reason if half == "." else f"{half}: {reason}"}
    return None


def _missing(run: Mapping[str, Any], record: Any, evaluation: Any) -> str:
    """Return why a run was never made: a job before it failed, or else what is not there."""
    for before in run["made"]["before"]:
        reason = reason_of(before)
        if reason is not None:
            return f"{before['folder']} failed before it: {reason}"
    files = (("run.json", record), ("evaluation.json", evaluation))
    absent = [name for name, value in files if value is None]
    return f"{' and '.join(absent)} not found" if absent else "made with other settings, code or data than are asked"


def _results(record: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the run itself reached and cost."""
    last, best, parameters = evaluation["last"], evaluation["best"], record.get("params") or {}
    scores = {f"{key}_{which}": scored.get(key) for which, scored in (("last", last), ("best", best)) for key in SCORES}
    numbers = scores | {
        "epochs": record.get("epochs"),
        "best_epoch": record.get("best_epoch"),
        "test_nll_best": best.get("test_nll"),
        "test_ece_best": best.get("test_ece"),
        "test_top1_tracked_max": evaluation.get("test_top1_tracked_max"),
        "agreement_best": best.get("agreement"),
        **{f"ensemble_top1_{which}": value for which, value in (evaluation.get("ensemble") or {}).items()},
        "train_seconds": _train_of(record, "seconds"),
        "peak_memory_mb": record.get("peak_memory_mb"),
        "train_flops": _train_of(record, "flops"),
        "student_params": parameters.get("student"),
        "extra_params_train": parameters.get("extra_train"),
        "extra_params_inference": parameters.get("extra_inference"),
    }
    made = {**_made(record), "eval_precision": str((evaluation.get("made") or {}).get("precision") or "")}
    return {key: _number(value) for key, value in numbers.items()} | {"device": _device(record)} | made


def _inherited(run: Mapping[str, Any], cache: Cache) -> dict[str, Any]:
    """Return what the run owes to teachers, outputs, pre-stages and earlier links; unknown if one left no record."""
    teachers = [Path(path) for path in run["teacher_paths"]]
    prestages = [Path(path) for path in run["prestage_paths"]]
    evaluations = [_known(Path(path) / "evaluation.json", cache) for path in run["taught_by"]]
    scores = [_number(_part(found, "best").get("test_top1")) for found in evaluations]
    return {
        "teacher_test_top1": ";".join("" if score is None else f"{score:.4f}" for score in scores),
        "teacher_seconds": _total(teachers, "seconds", cache),
        "pretrain_seconds": _total(prestages, "seconds", cache),
        "teacher_flops": _total(teachers, "flops", cache),
        "pretrain_flops": _total(prestages, "flops", cache),
    }


def _total(folders: Sequence[Path], key: str, cache: Cache) -> float | None:
    """Return the sum over stages; none at all cost 0, and one unknown makes the sum unknown."""
    values = [_train_of(_known(folder / "run.json", cache), key) for folder in folders]
    return None if None in values else sum(value for value in values if value is not None)


def _train_of(record: Mapping[str, Any], key: str) -> float | None:
    return _number(_part(record, key).get("train"))


def _part(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return found if isinstance(found := record.get(key), dict) else {}


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300
    return value if known else None


def _made(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the number format and the kernels that the student was trained with."""
    student = ((record.get("hardware") or {}).get("kernels") or {}).get("student") or {}
    return {key: str((student.get("trained") or {}).get(key) or "") for key in ("precision", "kernels")}


def _device(record: Mapping[str, Any]) -> str:
    hardware = record.get("hardware") or {}
    device = str(hardware.get("device") or "")
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

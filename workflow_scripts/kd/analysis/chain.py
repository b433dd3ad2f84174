"""A chain of half-stages as one run."""

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kd.analysis.records import as_object, check_run, read_metrics
from kd.tools.errors import UserError
from kd.tools.files import atomic_path, atomic_write, read_json, write_json

STUDENT_HALF = "student_update"


def join_chain(folders: Sequence[Path], out: Path) -> None:
    """Write a run folder from half-stage folders `stage<k>/<half>` in order.

    Best weights are those of the student update with the highest validation accuracy (the earliest of equals), last
    weights those of the last one; epochs are numbered through; seconds and FLOPs are sums, memory is the maximum.
    config.yaml holds the settings of every half-stage, train.log their logs one after the other; half_stages.csv says
    what each left: accuracies of student, synergy and teachers, the bottleneck's KL, the teachers' disagreement.
    """
    records = [_record(folder / "run.json") for folder in folders]
    rows, best_epoch, best_folder = _histories(folders, records)
    _write_rows(out / "metrics.csv", rows)
    last = [folder for folder in folders if folder.name == STUDENT_HALF][-1]
    for name, source in (("best", best_folder), ("last", last)):
        with atomic_path(out / "checkpoints" / f"{name}.safetensors") as temporary:
            shutil.copyfile(source / "checkpoints" / f"{name}.safetensors", temporary)
    joined = {
        **records[-1],
        "settings": [record["settings"] for record in records],
        "seconds": {"train": round(sum(record["seconds"]["train"] for record in records), 3)},
        "peak_memory_mb": max(record["peak_memory_mb"] for record in records),
        "flops": {"train": sum(record["flops"]["train"] for record in records)},
        "epochs": len(rows),
        "best_epoch": best_epoch,
        "half_stages": [
            {
                "stage": int(folder.parent.name.removeprefix("stage")),
                "half": folder.name,
                "seconds": record["seconds"]["train"],
                "validation": record["validation"],
            }
            for folder, record in zip(folders, records, strict=True)
        ],
    }
    halves = [{**half, **half["validation"]} for half in joined["half_stages"]]
    _write_rows(out / "half_stages.csv", [_without(half, "validation") for half in halves])
    settings = {
        f"{folder.parent.name}/{folder.name}": record["settings"]
        for folder, record in zip(folders, records, strict=True)
    }
    atomic_write(out / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    logs = [log.read_bytes() for folder in folders if (log := folder / "train.log").is_file()]
    atomic_write(out / "train.log", b"".join(logs))
    write_json(out / "run.json", joined)


def _record(path: Path) -> dict[str, Any]:
    """Return the record of a half-stage, with what a whole run is summed up from."""
    record = as_object(path, read_json(path))
    check_run(path, record)
    try:
        held = [record["settings"], record["seconds"]["train"], record["flops"]["train"], record["peak_memory_mb"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: it lacks {error}") from error
    if None in held or not isinstance(record.get("validation"), dict):
        raise UserError(f"{path} is damaged: it lacks seconds, FLOPs, memory, settings or what validation found")
    return record


def _histories(folders: Sequence[Path], records: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], int, Path]:
    rows: list[dict[str, Any]] = []
    best = (-1.0, 0, folders[0])
    for folder, record in zip(folders, records, strict=True):
        path = folder / "metrics.csv"
        for row in read_metrics(path, record.get("epochs")):
            if not row.get("stage") or not row.get("val_top1"):
                raise UserError(f"{path} is damaged: an epoch lacks its stage or val_top1")
            stage = f"{folder.parent.name}/{row['stage']}"
            rows.append({**row, "epoch": len(rows) + 1, "stage": stage})
            if folder.name == STUDENT_HALF and float(row["val_top1"]) > best[0]:
                best = (float(row["val_top1"]), len(rows), folder)
    return rows, best[1], best[2]


def _without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue())

"""A chain of half-stages as one run."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kd.analysis.per_epoch import read_metrics
from kd.analysis.records import as_object, check_run
from kd.tools.csv_files import write_csv
from kd.tools.errors import UserError
from kd.tools.files import atomic_path, atomic_write, read_json, write_json

STUDENT_HALF = "student_update"


@dataclass(frozen=True)
class Half:
    """A half-stage in its folder `stage<k>/<half>`, and what a whole run is summed up from."""

    folder: Path
    record: Mapping[str, Any]
    """Its run.json."""
    settings: Any
    seconds: float
    flops: float
    peak_memory_mb: float
    validation: Mapping[str, Any]
    """What it reached on the validation images, by name."""

    @property
    def name(self) -> str:
        """Return its folder's name below the run's."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def trains_student(self) -> bool:
        """Whether its weights may be the run's."""
        return self.folder.name == STUDENT_HALF

    def summary(self) -> dict[str, Any]:
        """Return which half of which stage it is and how long it took."""
        stage = int(self.folder.parent.name.removeprefix("stage"))
        return {"stage": stage, "half": self.folder.name, "seconds": self.seconds}


def join_chain(folders: Sequence[Path], out: Path) -> None:
    """Write a run folder from half-stage folders `stage<k>/<half>` in order.

    Best weights are those of the student update with the highest validation accuracy (the earliest of equals), last
    weights those of the last one; epochs are numbered through; seconds and FLOPs are sums, memory is the maximum.
    config.yaml holds the settings of every half-stage, train.log their logs one after the other; half_stages.csv says
    what each left: accuracies of student, synergy, teachers and their average, the bottleneck's KL, the disagreement.
    """
    halves = [_read(folder) for folder in folders]
    rows, best_epoch, best = _histories(halves)
    write_csv(out / "metrics.csv", rows)
    last = [half for half in halves if half.trains_student][-1]
    for name, source in (("best", best), ("last", last)):
        with atomic_path(out / "checkpoints" / f"{name}.safetensors") as temporary:
            shutil.copyfile(source.folder / "checkpoints" / f"{name}.safetensors", temporary)
    write_csv(out / "half_stages.csv", [{**half.summary(), **half.validation} for half in halves])
    settings = {half.name: half.settings for half in halves}
    atomic_write(out / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    logs = [log.read_bytes() for half in halves if (log := half.folder / "train.log").is_file()]
    atomic_write(out / "train.log", b"".join(logs))
    joined = {
        **halves[-1].record,
        "settings": [half.settings for half in halves],
        "seconds": {"train": round(sum(half.seconds for half in halves), 3)},
        "peak_memory_mb": max(half.peak_memory_mb for half in halves),
        "flops": {"train": sum(half.flops for half in halves)},
        "epochs": len(rows),
        "best_epoch": best_epoch,
        "half_stages": [{**half.summary(), "validation": half.validation} for half in halves],
    }
    write_json(out / "run.json", joined)


def _read(folder: Path) -> Half:
    """Return a half-stage; one whose run.json lacks what a whole run is summed up from is a UserError."""
    path = folder / "run.json"
    record = as_object(path, read_json(path))
    check_run(path, record)
    try:
        seconds, flops = record["seconds"]["train"], record["flops"]["train"]
        held = (record["settings"], seconds, flops, record["peak_memory_mb"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: it lacks {error}") from error
    if None in held or not isinstance(record.get("validation"), dict):
        raise UserError(f"{path} is damaged: it lacks seconds, FLOPs, memory, settings or what validation found")
    return Half(folder, record, *held, record["validation"])


def _histories(halves: Sequence[Half]) -> tuple[list[dict[str, Any]], int, Half]:
    """Return the epochs of all halves numbered through, the best one's number and its half."""
    rows: list[dict[str, Any]] = []
    best, best_epoch, best_half = -1.0, 0, halves[0]
    for half in halves:
        path = half.folder / "metrics.csv"
        for row in read_metrics(path, half.record.get("epochs")):
            if not row.get("stage") or not row.get("val_top1"):
                raise UserError(f"{path} is damaged: an epoch lacks its stage or val_top1")
            stage = f"{half.folder.parent.name}/{row['stage']}"
            rows.append({**row, "epoch": len(rows) + 1, "stage": stage})
            if half.trains_student and float(row["val_top1"]) > best:
                best, best_epoch, best_half = float(row["val_top1"]), len(rows), half
    return rows, best_epoch, best_half

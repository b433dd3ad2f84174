"""The history of finished runs for other programs: TensorBoard and Weights & Biases. Nothing trains for them."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

from kd.analysis.per_epoch import STAGE, read_metrics
from kd.analysis.rows import RunRow
from kd.schema.config import Sink
from kd.tools.errors import UserError

EVENTS = "events.out.tfevents.0"
"""TensorBoard reads every file whose name has `tfevents` in it."""
NEEDS: dict[Sink, str] = {"tensorboard": "tensorboard", "wandb": "wandb"}


@dataclass(frozen=True)
class Epoch:
    """What a run noted of one epoch."""

    number: int
    seconds: float
    """Of training until its end."""
    values: dict[str, float]
    """By name, 'val/top1' for the column val_top1."""


def check_library(sink: Sink) -> None:
    """Raise a UserError where a sink's library is not installed."""
    if sink in NEEDS and find_spec(NEEDS[sink]) is None:
        raise UserError(f"report.sinks: {sink} needs the package {NEEDS[sink]}, which is not installed")


def history(run: RunRow) -> list[Epoch]:
    """Return the epochs of a finished run."""
    rows = read_metrics(Path(run.path) / "metrics.csv")
    numbers = [{key: float(cell) for key, cell in row.items() if key != STAGE and cell} for row in rows]
    done = accumulate(row.get("seconds", 0.0) for row in numbers)
    return [
        Epoch(int(row["epoch"]), seconds, {_tag(key): value for key, value in row.items() if key != "epoch"})
        for row, seconds in zip(numbers, done, strict=True)
    ]


def results(run: RunRow) -> dict[str, float]:
    """Return the numbers of a run's row in runs.csv, by name."""
    return {f"result/{column}": value for column, value in run.numbers.items() if value is not None}


def _tag(column: str) -> str:
    return re.sub(r"^(train|val|test)_", r"\1/", column)


def write_tensorboard(runs: Sequence[RunRow], folder: Path) -> dict[str, str]:
    """Write one file of events per run and return its place in the folder by the run's path.

    The same runs give the same bytes: times are seconds of training, counted from 0.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    written = {}
    for run in runs:
        place = f"{_name(run)}/{EVENTS}"
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            writer = RecordWriter(file)
            writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
            for event in _events(run, Event):
                writer.write(event.SerializeToString())
        written[run.path] = place
    return written


def _events(run: RunRow, kind: Any) -> Iterator[Any]:
    epochs = history(run)
    for epoch in epochs:
        yield _event(kind, epoch.number, epoch.seconds, epoch.values)
    last = epochs[-1] if epochs else Epoch(0, 0.0, {})
    yield _event(kind, last.number, last.seconds, results(run))


def _event(kind: Any, step: int, seconds: float, values: dict[str, float]) -> Any:
    event = kind(wall_time=seconds, step=step)
    for name, value in values.items():
        event.summary.value.add(tag=name, simple_value=value)
    return event


def write_wandb(runs: Sequence[RunRow], folder: Path, project: str, entity: str | None) -> dict[str, str]:
    """Log every run with its epochs and results and return the name of its folder by the run's path.

    Offline, unless the environment's WANDB_MODE says otherwise: `wandb sync` sends it later.
    """
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    written = {}
    for run in runs:
        logged = wandb.init(
            project=project,
            entity=entity,
            dir=str(folder),
            name=_name(run),
            group=run.method,
            config={"path": run.path, **run.identity()},
            settings=wandb.Settings(console="off", disable_git=True, x_disable_stats=True),
        )
        for epoch in history(run):
            logged.log({**epoch.values, "epoch": epoch.number}, step=epoch.number)
        logged.summary.update(results(run))
        written[run.path] = Path(logged.dir).parent.name
        logged.finish()
    wandb.teardown()  # its process still writes where a run is finished on a busy machine; this waits for it
    return written


def _name(run: RunRow) -> str:
    """Return a run's path below the experiment's folder."""
    return run.path.removeprefix(f"results/{run.experiment}/")

"""The table of all trials of an experiment's searches."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas

from kd.study.made import is_as_asked, reason_of
from kd.tools.csv_files import write_csv
from kd.tools.errors import UserError
from kd.tools.files import read_json

NUMBERS = ("val_top1_best", "val_top1_last", "best_epoch", "epochs", "train_flops", "train_seconds")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of trials.csv."""

    dataset: str
    pair: str
    teachers: str
    student: str
    method: str
    """The one that is searched, as the experiment names it."""
    trial: int
    """From 1, which is the method as it is written."""
    seed: int
    status: str
    """ok, failed or missing."""
    reason: str
    chosen: bool
    val_top1_best: float | None = None
    """Validation accuracy (%) of the best epoch."""
    val_top1_last: float | None = None
    best_epoch: float | None = None
    epochs: float | None = None
    train_flops: float | None = None
    """Of the trial alone, also of one that diverged."""
    train_seconds: float | None = None
    drawn: Mapping[str, Any]
    """By name what is searched of the method: CARD.SETTING and recipe.KEY."""
    path: str

    @property
    def group(self) -> tuple[str, str]:
        """Return data set and pair."""
        return self.dataset, self.pair


def collect_trials(planned: Iterable[Mapping[str, Any]], out_csv: str | Path) -> None:
    """Write trials.csv, one row for each planned trial in the order given, whether it finished or not.

    Of `planned` each says what a trial is, where it lies, and what it and its choice must have been made from.
    """
    found = [_row(dict(one)) for one in planned]
    names = dict.fromkeys(name for trial in found for name in trial.drawn)
    own = [one.name for one in fields(Trial) if one.name not in {"drawn", "path"}]
    write_csv(out_csv, map(_cells, found), [*own, *names, "path"])


def _cells(trial: Trial) -> dict[str, Any]:
    cells = {**asdict(trial), "chosen": "yes" if trial.chosen else "no"}
    return cells | cells.pop("drawn")


def _row(planned: dict[str, Any]) -> Trial:
    made, choice, chosen_by = planned.pop("made"), Path(planned.pop("choice")), planned.pop("chosen_by")
    status, reason, numbers = _outcome(Path(planned["path"]), made)
    chosen = is_as_asked(chosen_by) and read_json(choice).get("trial") == planned["trial"]
    return Trial(**planned, status=status, reason=" ".join(reason.split()), chosen=chosen, **numbers)


def _outcome(folder: Path, made: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return status, reason and numbers of a trial."""
    if not all(map(is_as_asked, made["steps"])):
        own = next(filter(None, map(reason_of, made["steps"])), None)
        before = (f"{one['folder']} failed before it: {reason}" for one in made["before"] if (reason := reason_of(one)))
        return ("missing", next(before, "it was not trained"), {}) if own is None else ("failed", own, {})
    record = read_json(folder / "run.json")
    try:
        status, selected = str(record["status"]), dict(record["selected"])
        return (
            status,
            str(record.get("reason") or ""),
            {
                "val_top1_best": selected.get("best"),
                "val_top1_last": selected.get("last"),
                "best_epoch": record["best_epoch"] if status == "ok" else None,
                "epochs": record["epochs"],
                "train_flops": record["flops"]["train"],
                "train_seconds": record["seconds"]["train"],
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return "failed", f"{folder} holds an incomplete record: {error}", {}


def read_trials(path: str | Path) -> list[Trial]:
    """Return the rows of trials.csv. Errors: UserError for a file that `collect_trials` did not write."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            table = pandas.read_csv(io.StringIO(file.read()), dtype=str, keep_default_na=False, na_filter=False)
        return [_read(row) for row in table.to_dict("records")]
    except (KeyError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a table of trials: {error}") from error


def _read(row: dict[str, Any]) -> Trial:
    known = {one.name for one in fields(Trial)}
    numbers = {name: float(row[name]) if row[name] else None for name in NUMBERS}
    texts = {name: value for name, value in row.items() if name in known and name not in numbers}
    whole = {name: int(row[name]) for name in ("trial", "seed")}
    drawn = {name: value for name, value in row.items() if name not in known and value}
    return Trial(**{**texts, **numbers, **whole, "chosen": row["chosen"] == "yes", "drawn": drawn})

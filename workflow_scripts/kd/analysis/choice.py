"""The choice of a search: the trial whose settings the runs of its row are trained with.

Students depend on this file, so it imports nothing that only tables need.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.tools.errors import UserError
from kd.tools.files import read_json, write_json


def choose(told: Mapping[str, Any], records: Sequence[Path], out: Path) -> None:
    """Write which trial reached the highest validation accuracy, of equals the earliest, with its settings.

    `told` names method, weights and each trial's settings, `records` are the run.json of the trials in their order.
    Errors: UserError where none of them finished.
    """
    weights = told["weights"]
    reached = [_reached(read_json(path), path, weights) for path in records]
    finished = {number: value for number, value in enumerate(reached) if isinstance(value, float)}
    if not finished:
        raise UserError(f"no trial of {told['method']} finished, so none can be chosen; the first: {reached[0]}")
    best = max(finished, key=lambda number: finished[number])
    write_json(out, {**told["trials"][best], "val_top1": finished[best], "weights": weights, "trials": len(records)})


def _reached(record: Any, path: Path, weights: str) -> float | str:
    """Return the validation accuracy of a trial, or why it has none."""
    try:
        if record["status"] != "ok":
            return str(record.get("reason") or record["status"])
        return float(record["selected"][weights])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say what its trial reached: delete it and run again") from error

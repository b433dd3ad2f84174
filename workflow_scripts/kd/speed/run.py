"""One part of a benchmark, measured and written: into the JSON file of all parts, and from that into the report."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kd.engine.precision import choose_precision, has_fast_bf16, training_device
from kd.record.provenance import git_state, hardware, versions
from kd.speed import report
from kd.speed.anchor import anchor
from kd.speed.compare import compare
from kd.speed.contrast import contrast
from kd.speed.measure import Progress, busy_clock
from kd.speed.parity import parity
from kd.speed.recipe import recipe
from kd.speed.scale import scale
from kd.speed.settings import Settings, name_of
from kd.speed.side_by_side import side_by_side
from kd.speed.switches import switches
from kd.speed.world import World
from kd.tools.errors import UserError
from kd.tools.files import write_json

DIGITS = 5
"""Significant digits that are kept of a measured number."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """How the benchmark was started."""

    command: str = ""
    import_seconds: float = 0.0


def speed(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return both loops' measurements by method; a method that cannot do with these networks leaves its reason."""
    world, found = World(settings, folder), {}
    reasons: dict[str, UserError] = {}
    for entry in settings.methods:
        name = name_of(entry)
        try:
            found[name] = compare(world, entry, partial(_named, progress, name))
        except UserError as error:
            reasons[name], found[name] = error, {"failed": str(error)}
    if len(reasons) == len(found):
        raise next(iter(reasons.values()))
    return found


def _named(progress: Progress, name: str, text: str) -> None:
    progress(f"{name}: {text}")


MEASURED: dict[str, Callable[[Settings, Path, Progress], dict[str, Any]]] = {
    "speed": speed,
    "switches": switches,
    "contrast": contrast,
    "scale": scale,
    "runs": side_by_side,
    "recipe": recipe,
    "accuracy": parity,
    "anchor": anchor,
}


def benchmark(settings: Settings, part: str, path: Path, start: Start = Start()) -> dict[str, Any]:
    """Measure a part, add it to the JSON file, write the report anew, and return what the file now holds of the part.

    A part measured again with the same settings replaces what it measured before; other methods of it are added.
    """
    record = report.read(path)
    with TemporaryDirectory(prefix="kd-benchmark-") as name:
        load, started = os.getloadavg(), time.perf_counter()
        found = _rounded(MEASURED[part](settings, Path(name), lambda text: log.info("%s: %s", part, text)))
        seconds = time.perf_counter() - started
    conditions = {"part": part, **_conditions(settings)}
    recipe_keys = "".join(f" {name} {value}" for name, value in settings.recipe.items())
    key = f"{part} {settings.pair} batch {settings.batch_size} {conditions['hardware']['device']}{recipe_keys}"
    before = record.get(key, {})
    if not conditions.items() <= before.items():
        before = {"results": {}, "measured": []}
    measured = {
        "command": start.command,
        "methods": list(found) if part == "speed" else [name_of(entry) for entry in settings.methods],
        "import_seconds": start.import_seconds,
        "seconds": seconds,
        "load_average": {"before": load[0], "after": os.getloadavg()[0]},
        "git": git_state(),
    }
    record[key] = {
        **conditions,
        "measured": [*before["measured"], _rounded(measured)],
        "results": {**before["results"], **found},
    }
    write_json(path, record)
    report.write(record, path.parent)
    return record[key]


def _conditions(settings: Settings) -> dict[str, Any]:
    """Return, as JSON would, what decides the figures of a part: figures of different conditions never mix."""
    device = training_device()
    measured = settings.precision == "auto"
    precision = "measured" if measured else choose_precision(settings.precision, device).name
    found = {
        "settings": settings.model_dump(mode="json", exclude={"methods"}),
        "hardware": {**hardware(device, precision), "fast_bf16": has_fast_bf16(device)},
        "clock": "processor" if busy_clock(device) else "wall",
        "versions": versions(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _rounded(value: Any) -> Any:
    """Return a result with numbers as precise as they are worth."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value

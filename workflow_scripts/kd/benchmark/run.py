"""A whole benchmark: every method, then accuracy and scale where asked for, into one JSON file and its report."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kd.benchmark import report
from kd.benchmark.compare import compare
from kd.benchmark.parity import parity
from kd.benchmark.scale import AXES, Axis, curves
from kd.benchmark.settings import Settings
from kd.benchmark.world import World
from kd.engine.precision import choose_precision, training_device
from kd.engine.provenance import git_state, hardware, versions
from kd.spec.errors import UserError
from kd.spec.files import write_json

PARITY_VALIDATION = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extras:
    """What is measured beside the speed."""

    weights: Sequence[Path] = ()
    """Trained teachers; without them, teachers are as initialised, or trained for the comparison of accuracies."""
    parity_epochs: int = 0
    seeds: int = 3
    scale: Sequence[Axis] = ()
    import_seconds: float = 0.0


def benchmark(settings: Settings, path: Path, extras: Extras) -> dict[str, Any]:
    """Measure, write the JSON file and its report, and return the record."""
    if extras.parity_epochs and not settings.data:
        raise UserError("accuracy needs real images: name a packed folder or archives in --data")
    device = training_device()
    precision = choose_precision(settings.precision, device).name
    with TemporaryDirectory(prefix="kd-benchmark-") as name:
        folder = Path(name)
        world = World(settings, folder, extras.weights)
        record = {
            "settings": settings.model_dump(mode="json"),
            "images": f"{', '.join(settings.data) or 'synthetic'}, {world.image_size} px, {world.num_classes} classes",
            "hardware": hardware(device, precision),
            "versions": versions(),
            "git": git_state(),
            "import_seconds": round(extras.import_seconds, 3),
            "methods": [_compared(world, entry) for entry in settings.methods],
            "parity": _parity(settings, folder, extras),
            "scale": curves(settings, folder, extras.scale, log.info),
        }
    write_json(path, record)
    report.write(record, path)
    return record


def _compared(world: World, entry: str | dict[str, Any]) -> dict[str, Any]:
    name = world.settings.name_of(entry)
    return compare(world, entry, lambda text: log.info("%s: %s", name, text))


def _parity(settings: Settings, folder: Path, extras: Extras) -> dict[str, Any] | None:
    if not extras.parity_epochs:
        return None
    short = settings.model_copy(update={"epochs": extras.parity_epochs, "validation": PARITY_VALIDATION})
    return parity(short, folder, extras.weights, extras.seeds, log.info)


def axes(wanted: bool) -> Sequence[Axis]:
    """Return what is grown, if anything."""
    return AXES if wanted else ()

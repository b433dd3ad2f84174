"""What contrastive distillation costs beside plain distillation, both by the engine, at a full bank of negatives."""

from pathlib import Path
from typing import Any

from kd.speed.compare import build_engine
from kd.speed.measure import Progress, in_turns
from kd.speed.settings import Entry, Settings
from kd.speed.world import World

NEGATIVES = 16_384
PLAIN = "kd"
CONTRAST = "crd"


def contrast(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return images a second of both, and how many times CRD's step costs KD's."""
    world = World(settings, folder)
    entries: dict[str, Entry] = {PLAIN: PLAIN, CONTRAST: {"method": CONTRAST, "negatives": NEGATIVES}}
    engines = {name: build_engine(world.workbench(entry, reference=False), world) for name, entry in entries.items()}
    for engine in engines.values():
        engine.run(1 + engine.warm_up)
    bench = engines[PLAIN].bench
    loops = {name: engine.run for name, engine in engines.items()}
    timings = in_turns(loops, settings.steps, settings.batch_size, settings.repeats, bench.team.device, progress)
    return {
        "step cost": {
            "negatives": NEGATIVES,
            "images": len(bench.data.train),
            "ratio": timings[PLAIN].ratio_to(timings[CONTRAST]),
            "images_per_second": {name: timing.images_per_second() for name, timing in timings.items()},
        }
    }

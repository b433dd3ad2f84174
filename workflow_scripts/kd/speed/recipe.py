"""How long the field's 240-epoch recipe takes on each of its thirteen pairs, from measured steps."""

from pathlib import Path
from typing import Any

from kd.speed.compare import both_loops
from kd.speed.measure import Progress, in_turns, seconds
from kd.speed.settings import Settings
from kd.speed.world import World

PAIRS = (
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "MobileNetV2"),
    ("ResNet50", "vgg8"),
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
    ("wrn_40_2", "ShuffleV1"),
)
"""Tian et al. 2020 (CRD), tables 1 and 2."""


def recipe(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return by pair what a step of distillation and an evaluation cost an image, in both loops."""
    found = {}
    for teacher, student in PAIRS:
        at = settings.model_copy(update={"teachers": [teacher], "student": student, "weights": []})
        progress(at.pair)
        found[at.pair] = _costs(World(at, folder), progress)
    return found


def _costs(world: World, progress: Progress) -> dict[str, Any]:
    settings = world.settings
    with both_loops(world, "kd") as pair:
        loops = {name: loop.run for name, loop in pair.loops.items()}
        timings = in_turns(loops, settings.steps, settings.batch_size, settings.repeats, pair.device, progress)
        held_out = len(pair.reference.held_out)
        evaluation = {name: seconds(loop.evaluate, pair.device) / held_out for name, loop in pair.loops.items()}
    return {
        "ratio": timings["engine"].ratio_to(timings["reference"]),
        **{
            name: {"images_per_second": timing.images_per_second(), "evaluation_seconds_per_image": evaluation[name]}
            for name, timing in timings.items()
        },
    }

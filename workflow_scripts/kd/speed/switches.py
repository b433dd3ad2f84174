"""What each optimisation of the engine gains: the engine as it is, in turns with the engine without it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kd.engine import runner
from kd.engine.precision import runs_bf16
from kd.methods.contract import Batch, Seen
from kd.speed.compare import build_engine, build_reference
from kd.speed.engine import Engine
from kd.speed.measure import Loop, Progress, in_turns
from kd.speed.settings import Settings, name_of
from kd.speed.world import World

BASE = "engine"
UNMOVED = {"crop": "none", "flip": False}
BY_STEP = {"capture": "off"}
"""What a graph would not show: it is recorded of the engine's own way, and has no reads and no launches."""


@dataclass(frozen=True)
class Switch:
    """One optimisation and how it is done without."""

    name: str
    off: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys that switch it off."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys under which alone it acts, so that it is compared with an engine that has them too."""
    after: Callable[[Engine, World], None] | None = None
    """Changes an engine."""


def _unfolded(engine: Engine, world: World) -> None:
    """Run frozen networks with their BatchNorm layers; what a network runs with is made at its first batch."""
    with patch.object(runner, "folded", lambda model, images: model):
        engine.run_by_step(1)


def _image_by_image(engine: Engine, world: World) -> None:
    """Take batches from the reference's workers, which transform one image at a time."""
    entry = world.settings.methods[0]
    engine.fetch = build_reference(world.workbench(entry, reference=True), world).fetch  # type: ignore[method-assign]


def _read_back(engine: Engine, world: World) -> None:
    """Read loss and accuracy back to the host in every step."""
    training, step = engine.training, engine.training.step

    def reading(batch: Batch, known: Seen, cost: float) -> None:
        """Take a step, then wait for its figures."""
        step(batch, known, cost)
        training.stage_run.sums.means()

    training.step = reading  # type: ignore[method-assign]


def _ask_again(engine: Engine, world: World) -> None:
    """Run the teachers on every batch although they have seen the very images before."""
    engine.frozen._remembered = {}


def _unfused(engine: Engine, world: World) -> None:
    """Let optimisers launch a kernel an operation."""
    for optimizer in engine.training.stage_run.optimizers.values():
        for group in optimizer.param_groups:
            group["fused"] = False


SWITCHES = (
    Switch("whole steps replayed as CUDA graphs", {"capture": "off"}),
    Switch("channels-last layout", {"channels_last": False}, {"kernels": "torch"}),
    Switch("bf16", {"precision": "fp32"}, {"precision": "bf16", "kernels": "torch"}),
    Switch("Winograd convolutions", {"kernels": "torch"}, {"kernels": "winograd", "precision": "fp32"}),
    Switch("torch.compile", {"kernels": "torch"}, {"kernels": "compiled"}),
    Switch("BatchNorm of frozen teachers folded", after=_unfolded),
    Switch("resident images, augmented by the batch", shared=BY_STEP, after=_image_by_image),
    Switch("no reads back to the host", shared=BY_STEP, after=_read_back),
    Switch("fused optimiser", shared=BY_STEP, after=_unfused),
    Switch("teachers asked once where images never move", shared={"augmentation": UNMOVED}, after=_ask_again),
    Switch("deterministic kernels (a price, paid for bit-identical resuming)", {"deterministic": False}),
)
"""Trainings side by side (co_train) are a part of their own, kd.speed.side_by_side."""


def switches(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return by optimisation how much faster the engine is with it, for the first method of the settings."""
    engines = _engines(settings, folder)
    loops: dict[str, Loop] = {name: engine.run for name, engine in engines.items()}
    for engine in engines.values():
        engine.run(1 + engine.warm_up)  # the first step counts FLOPs, the second may compile
    device = engines[BASE].bench.team.device
    timings = in_turns(loops, settings.steps, settings.batch_size, settings.repeats, device, progress)
    return {
        name: {
            "method": name_of(settings.methods[0]),
            "gain": timings[_base_of(switch)].ratio_to(timings[name]),
            "with": timings[_base_of(switch)].images_per_second(),
            "without": timings[name].images_per_second(),
        }
        for name, switch in {switch.name: switch for switch in SWITCHES}.items()
        if name in timings
    }


def _base_of(switch: Switch) -> str:
    return f"{BASE} {dict(switch.shared)}" if switch.shared else BASE


def _engines(settings: Settings, folder: Path) -> dict[str, Engine]:
    """Return the engine as it is and one without each optimisation that acts here."""
    engines = {BASE: _engine(settings, folder)}
    for switch in SWITCHES:
        if not _acts(switch, engines[BASE]):
            continue
        if _base_of(switch) not in engines:
            engines[_base_of(switch)] = _engine(settings, folder, switch.shared)
        engines[switch.name] = _engine(settings, folder, {**switch.shared, **switch.off}, switch)
    return engines


def _acts(switch: Switch, engine: Engine) -> bool:
    """Whether an optimisation does anything in an engine, as far as can be known before it is done without."""
    device = engine.bench.team.device
    if "kernels" in switch.off and switch.shared["kernels"] == "winograd":
        return device.type == "cpu"
    if "capture" in switch.off:
        return device.type == "cuda"
    if "precision" in switch.off:
        return runs_bf16(device)
    if switch.after is _unfused:
        return any(g.get("fused") for o in engine.training.stage_run.optimizers.values() for g in o.param_groups)
    return True


def _engine(
    settings: Settings, folder: Path, recipe: Mapping[str, Any] | None = None, switch: Switch | None = None
) -> Engine:
    changed = settings.model_copy(update={"recipe": {**settings.recipe, **(recipe or {})}})
    world = World(changed, folder)
    engine = build_engine(world.workbench(settings.methods[0], reference=False), world)
    if switch and switch.after:
        switch.after(engine, world)
    return engine

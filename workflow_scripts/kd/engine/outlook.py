"""What trainings will cost, before the first of them: passes of a rehearsed step, and a short probe of each network.

A rehearsed step says which networks run how often on how many images; a probe says what such a pass costs. So there is
a number before anything is trained, good to a factor of about two in time, and to a few percent in operations.
"""

import copy
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.engine.flops import FlopCounter
from kd.engine.modes import COMPILED, TORCH, Mode, Modes, choose_modes
from kd.engine.precision import Precision
from kd.engine.team import Team
from kd.methods.contract import STUDENT, Stage, Update
from kd.models.base import TappedModel
from kd.schema.config import Recipe
from kd.tools.errors import UserError

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
USES = ("frozen", "trained")
Key = tuple[str, ...]
"""Which network, of which images."""

FEW = 2
"""Images of a first pass, whose operations are counted."""
LONG_ENOUGH = 0.1
"""Seconds of a pass from which it is not made on more images: what starting it takes is little then."""
IN_ALL = 20.0
"""Seconds of all probes; what comes later is reckoned by its operations."""


@dataclass
class Stretch:
    """So many epochs of the same step."""

    epochs: float
    images: int
    """Of an epoch."""
    items: int
    """Images of the step that was rehearsed, further copies of them not counted."""
    beside: float
    """Operations of that step outside networks: losses, and what methods add."""
    passes: Counter[tuple[str, bool]]
    """By role and whether gradients went back: the images that it saw in that step."""
    once: frozenset[str] = frozenset()
    """Roles that are asked once for every image, and not in every epoch."""
    validation: int = 0
    """Images that the student sees after every epoch."""


@dataclass
class Pace:
    """What one image costs in a network, by use."""

    flops: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Empty where it was not timed."""


class Probe:
    """The pace of each network, measured once on the CPU; a GPU is not this job's to use."""

    def __init__(self, timed: bool) -> None:
        self.timed, self.spent = timed, 0.0
        self.paces: dict[Key, Pace] = {}

    def look(self, key: Key, model: TappedModel, image_size: int, recipe: Recipe) -> None:
        """Measure a network unless it was; one that cannot be trained as it is has its rehearsal to say so."""
        if key in self.paces:
            return
        pace = self.paces[key] = Pace()
        try:
            modes = _plain(choose_modes(recipe, CPU))
        except UserError:  # a number format that only a GPU has
            modes = Modes(Mode("fp32"), Mode("fp32"))
        for use in USES:
            self._measure(pace, use, copy.deepcopy(model), image_size, recipe.batch_size, modes)

    def _measure(self, pace: Pace, use: str, model: TappedModel, size: int, most: int, modes: Modes) -> None:
        began = time.perf_counter()
        try:
            run = _Pass(model, use == "trained", size, modes)
            pace.flops[use] = run.flops(FEW) / FEW
            images = FEW
            while self.timed and self.spent + time.perf_counter() - began < IN_ALL:
                # the first pass of a size also chooses kernels for it
                seconds = min(run(images) for _ in range(2))
                pace.seconds[use] = seconds / images
                if seconds >= LONG_ENOUGH or images >= most:
                    break
                images = min(4 * images, most)
        except Exception as error:  # what is wrong with a network is told by its rehearsal; an estimate stops nothing
            log.debug("no probe of %s: %s", model.arch, error)
        self.spent += time.perf_counter() - began


class _Pass:
    """A pass of a network alone, and back where it is trained."""

    def __init__(self, model: TappedModel, trained: bool, size: int, modes: Modes) -> None:
        self.trained = trained and any(p.requires_grad for p in model.parameters())
        self.size = size
        self.team = Team({STUDENT: model}, CPU, {STUDENT: modes})
        self.team.enter(Stage("probe", (Update(STUDENT, (STUDENT,) if self.trained else ()),)))
        self.team.fold([] if self.trained else [STUDENT])
        self.precision = Precision((modes.trained if trained else modes.frozen).precision, CPU)

    def flops(self, images: int) -> float:
        """Return the operations that a pass takes."""
        batch = self._batch(images)
        with FlopCounter() as counter:
            self._run(batch)
        return float(counter.total)

    def __call__(self, images: int) -> float:
        """Return the seconds that a pass takes."""
        batch = self._batch(images)
        began = time.perf_counter()
        self._run(batch)
        return time.perf_counter() - began

    def _batch(self, images: int) -> Tensor:
        """Return images, for which the network is made ready."""
        batch = torch.zeros(images, 3, self.size, self.size)
        self.team.make_ready([STUDENT], batch, self.precision)
        return batch

    def _run(self, batch: Tensor) -> None:
        trains = frozenset([STUDENT] if self.trained else [])
        logits = self.team.forward(batch, self.precision, trains)[STUDENT].logits
        if self.trained:
            F.cross_entropy(logits.float(), torch.zeros(len(batch), dtype=torch.int64)).backward()


def _plain(modes: Modes) -> Modes:
    """Return modes that need no compiler, which takes longer than the probe may."""
    if COMPILED not in (modes.trained.kernels, modes.frozen.kernels):
        return modes
    return Modes(*(replace(mode, kernels=TORCH) for mode in (modes.trained, modes.frozen)))


def cost_of(stretches: Sequence[Stretch], networks: Mapping[str, Key], places: Mapping[Key, int]) -> dict[str, Any]:
    """Return what a training runs, as checked.json has it: operations outside networks, and passes.

    `passes` are [number of a network among the paces, images without gradients, images with]; `evaluated` likewise
    [number, images] of the student after each epoch, which take time and are in no count of operations. `networks` says
    by role which network it is.
    """
    images: defaultdict[tuple[int, bool], float] = defaultdict(float)
    for one in stretches:
        for (role, taught), seen in one.passes.items():
            repeated = 1.0 if role in one.once else one.epochs
            images[places[networks[role]], taught] += repeated * one.images * seen / one.items
    used = sorted({place for place, _ in images})
    evaluated = sum(one.epochs * one.validation for one in stretches)
    return {
        "beside": sum(one.epochs * one.images * one.beside / one.items for one in stretches),
        "passes": [[place, images[place, False], images[place, True]] for place in used],
        "evaluated": [[places[networks[STUDENT]], evaluated]] if STUDENT in networks else [],
    }


def as_rows(paces: Mapping[Key, Pace]) -> list[dict[str, Any]]:
    """Return the paces as checked.json has them, the network's settings last in its key."""
    return [{"network": list(key), "flops": pace.flops, "seconds": pace.seconds} for key, pace in paces.items()]

"""Students trained side by side: methods of one seed share a pass over the data and one of the frozen teachers.

Each training keeps its own networks, optimisers, random generators and resume file, and takes the very steps that it
would take alone: the same images in the same order, from the same teachers. One that diverges ends alone, too. On a GPU
the steps of all are one graph, those of other seeds as well, each student's on a stream of its own: one of these small
networks leaves most of a GPU idle.
"""

import itertools
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch

from kd.engine.capture import CudaGraph, Replay
from kd.engine.checkpoint import restore_rng, rng_state
from kd.engine.history import Result
from kd.engine.step import take_step
from kd.engine.training import Training
from kd.methods.contract import Batch, Seen, Stage
from kd.tools.errors import DivergenceError, UserError


@dataclass
class Companion:
    """A training with the state of torch's global generators that it left."""

    training: Training
    rng: dict[str, torch.Tensor]
    failure: UserError | None = None
    """Why it ended before its time."""
    group: int = 0
    """Those of one group may share a graph."""
    draws: torch.Generator | None = None
    """What its steps draw from on a GPU: as a graph records generators and not their states, one of its own."""

    @contextmanager
    def turn(self, missed: float = 0.0) -> Iterator[Training]:
        """Give it the machine: its clock runs, after `missed` seconds of shared work, and it draws its own numbers.

        A divergence inside ends this training alone.
        """
        device = self.training.team.device
        restore_rng(self.rng, device)
        self.training.clock.go_on(missed)
        with self.ends_alone():
            yield self.training
        self.training.clock.pause()
        self.rng = rng_state(device)

    @contextmanager
    def ends_alone(self) -> Iterator[None]:
        """Note a divergence inside as its end."""
        try:
            yield
        except DivergenceError as error:
            self.failure = error
        except torch.linalg.LinAlgError as error:  # what decompositions say of matrices that are not finite
            self.failure = DivergenceError(f"training diverged: {str(error).splitlines()[0]}")

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let a step inside draw its own numbers, on a GPU in a way that a graph can record."""
        torch.set_rng_state(self.rng["cpu"])
        with _instead_of_default(self.draws):
            yield
        self.rng["cpu"] = torch.get_rng_state()

    @property
    def going(self) -> bool:
        """Whether it has epochs to train."""
        return self.failure is None and not self.training.finished


@contextmanager
def _instead_of_default(generator: torch.Generator | None) -> Iterator[None]:
    """Let a GPU's own generator be another one inside."""
    if generator is None:
        yield
        return
    default = torch.cuda.default_generators[generator.device.index or 0]
    before = default.graphsafe_get_state()
    default.graphsafe_set_state(generator.graphsafe_get_state())
    try:
        yield
    finally:
        default.graphsafe_set_state(before)


Bundle = list[Companion]
"""Those whose next epochs are the same batches, seen by the same frozen teachers."""


def train_together(trainings: Sequence[Training], plans: Sequence[list[Stage]]) -> list[Result | UserError]:
    """Train all of them to their ends and return what each leaves, or why it failed.

    Whoever is ahead after an interruption waits for the others.
    """
    companions = [_started(training, stages) for training, stages in zip(trainings, plans, strict=True)]
    fleet = Fleet()
    while waiting := [companion for companion in companions if companion.going]:
        behind = min(len(companion.training.result.rows) for companion in waiting)
        ready = [companion for companion in waiting if len(companion.training.result.rows) == behind]
        fleet.epoch(bundles_of(ready))
    return [companion.failure or companion.training.result for companion in companions]


def _started(training: Training, stages: list[Stage]) -> Companion:
    torch.manual_seed(training.own_seed)
    training.start(stages)
    return companion_of(training)


def companion_of(training: Training) -> Companion:
    """Return a training that has been started, and waits for its turn."""
    device = training.team.device
    training.clock.pause()
    return Companion(training, rng_state(device), draws=torch.Generator(device) if device.type == "cuda" else None)


def bundles_of(companions: Sequence[Companion]) -> list[Bundle]:
    """Return companions in bundles, as their next epochs allow."""
    bundles: list[Bundle] = []
    for companion in companions:
        mine = companion.training
        for bundle in bundles:
            first = bundle[0].training
            together = first.feed.serves_the_same(mine.feed) and first.frozen.sees_the_same(mine.frozen)
            if together and bundle[0].group == companion.group:
                bundle.append(companion)
                break
        else:
            bundles.append([companion])
    return bundles


def _epoch(bundle: Bundle) -> None:
    """Train a bundle for an epoch."""
    for companion in bundle:
        companion.training.begin_epoch()
    for _ in steps_of(bundle):
        pass
    _end(bundle)


def steps_of(bundle: Bundle) -> Iterator[int]:
    """Take the steps of a bundle's epoch, companion by companion; yield of each how many images it had."""
    first = bundle[0].training
    taps = first.frozen.shared_taps([companion.training.frozen for companion in bundle])
    since = time.perf_counter()
    # What an epoch of its own draws from the first's streams the others draw in turn; they are set to it afterwards.
    for batch in first.feed.epoch():
        known = first.frozen.outputs(batch, taps)
        shared = time.perf_counter() - since
        for companion in bundle:
            if companion.failure is not None:
                continue
            with companion.turn(shared) as training:
                training.step(batch, known, first.frozen.cost(len(batch.labels)))
        yield len(batch.labels)
        since = time.perf_counter()


def _end(bundle: Bundle, missed: float = 0.0) -> None:
    """End an epoch of a bundle, whose companions each spent so many seconds of it that their clocks do not know of."""
    first = bundle[0].training
    for companion in bundle:
        if companion.failure is not None:
            continue
        companion.training.feed.load_state_dict(first.feed.state_dict())
        with companion.turn(missed) as training:
            training.end_epoch()


# --- one graph for all --------------------------------------------------------------------------------


class Fleet:
    """What trains bundles for an epoch each: on a GPU in convoys, which keep their graphs from epoch to epoch."""

    def __init__(self) -> None:
        self._convoys: dict[tuple[tuple[int, int], ...], Convoy] = {}
        self._groups = itertools.count(1)

    def epoch(self, bundles: Sequence[Bundle]) -> None:
        """Train bundles for an epoch."""
        rows: dict[tuple[Hashable, ...], list[Bundle]] = {}
        for bundle in bundles:
            first = bundle[0].training
            if first.feed.tray is None:
                _epoch(bundle)
                continue
            # steps that are taken at once are as many, and of as many images, the last of an epoch too
            alike = (first.feed.steps, first.feed.tray.size, first.feed.last, first.stage_run.recipe.capture)
            rows.setdefault((bundle[0].group, *alike), []).append(bundle)
        before, self._convoys = self._convoys, {}
        for row in rows.values():
            names = tuple((id(one), one.training.index) for bundle in row for one in bundle)
            convoy = self._convoys[names] = before.get(names) or Convoy(row)
            convoy.epoch()
            if convoy.replay.gave_up:
                self._part(convoy.companions)

    def _part(self, companions: Sequence[Companion]) -> None:
        """Let one half go on without the other, for one of them may be what cannot be captured, or all too large."""
        group = next(self._groups)
        for companion in companions[len(companions) // 2 :] if len(companions) > 1 else ():
            companion.group = group


class Convoy:
    """Bundles whose steps are taken at once."""

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self.bundles = bundles
        self.companions = [companion for bundle in bundles for companion in bundle]
        first = self.companions[0].training
        self._device, self._size = first.team.device, _tray_size(first)
        self._taps = [bundle[0].training.frozen.shared_taps([c.training.frozen for c in bundle]) for bundle in bundles]
        self._lanes = [_Lanes(self._device, len(bundle)) for bundle in bundles]
        self._crossing = _Lanes(self._device, len(bundles))
        draws = [companion.draws for companion in self.companions if companion.draws is not None]
        one = f"stage '{first.stage_run.stage.name}' of method {first.method.name}"
        several = f"the step of {len(self.companions)} students side by side"
        self.replay = Replay(
            partial(self._step, self._size),
            self._place,
            self._mend,
            partial(CudaGraph, self._device, draws),
            one if len(self.companions) == 1 else several,
            first.stage_run.recipe.capture,
        )

    def epoch(self) -> None:
        """Train all for an epoch."""
        started = time.perf_counter()
        self.begin_epoch()
        for _ in self.steps():
            pass
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        share = (time.perf_counter() - started) / len(self.companions)
        for companion in self.companions:
            if companion.draws is not None:
                companion.rng["cuda"] = companion.draws.get_state()
        for bundle in self.bundles:
            _end(bundle, share)

    def begin_epoch(self) -> None:
        """Make all ready for an epoch's steps."""
        for companion in self.companions:
            companion.training.begin_epoch()
            if companion.draws is not None:
                companion.draws.set_state(companion.rng["cuda"])

    def steps(self) -> Iterator[int]:
        """Take the steps of an epoch, and yield of each how many images of a student it had."""
        trays = [bundle[0].training.feed.tray for bundle in self.bundles]
        for sizes in zip(*(tray.epoch() for tray in trays if tray is not None), strict=True):
            size = sizes[0]
            if size == self._size:
                self.replay()
            else:  # the last batch of an epoch is smaller
                self._step(size)
            for bundle in self.bundles:
                cost = bundle[0].training.frozen.cost(size)
                for companion in bundle:
                    if companion.failure is None:
                        companion.training.stepped(size, cost)
            yield size

    def _step(self, size: int) -> None:
        """Take a step on batches of so many images."""
        self._crossing.run([partial(self._of_bundle, number, size) for number in range(len(self.bundles))])

    def _of_bundle(self, number: int, size: int) -> None:
        bundle = self.bundles[number]
        first = bundle[0].training
        assert first.feed.tray is not None, "its batches are laid out"
        batch = first.feed.tray.serve(size)
        known = first.frozen.outputs(batch, self._taps[number])
        self._lanes[number].run([partial(self._take, companion, batch, known) for companion in bundle])

    def _take(self, companion: Companion, batch: Batch, known: Seen) -> None:
        if companion.failure is None:
            with companion.ends_alone(), companion.drawing():
                take_step(companion.training.stage_run, batch, known)

    def _place(self) -> tuple[object, ...]:
        trays = [bundle[0].training.feed.tray for bundle in self.bundles]
        going = [companion.failure is None for companion in self.companions]
        places = [companion.training.stage_run.place for companion in self.companions]
        return (*(tray.place for tray in trays if tray is not None), *going, *places)

    def _mend(self) -> None:
        for companion in self.companions:
            companion.training.stage_run.mend()


def _tray_size(training: Training) -> int:
    assert training.feed.tray is not None, "its batches are laid out"
    return training.feed.tray.size


@dataclass
class _Lanes:
    """Streams for parts that need not wait for each other; none where there is one part only, or no GPU."""

    device: torch.device
    count: int
    streams: list[torch.cuda.Stream] = field(init=False)

    def __post_init__(self) -> None:
        wanted = self.count if self.device.type == "cuda" and self.count > 1 else 0
        self.streams = [torch.cuda.Stream(self.device) for _ in range(wanted)]

    def run(self, parts: Sequence[Callable[[], None]]) -> None:
        """Run parts after what was asked before, and let what is asked next wait for all of them."""
        if not self.streams:
            for part in parts:
                part()
            return
        main = torch.cuda.current_stream(self.device)
        for part, stream in zip(parts, self.streams, strict=True):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                part()
        for stream in self.streams:
            main.wait_stream(stream)

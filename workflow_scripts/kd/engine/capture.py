"""Steps replayed on a GPU: one is recorded as a CUDA graph once it has run a few times, and then launched whole.

With networks this small a GPU waits for the host, which launches thousands of kernels a step; a graph is one launch.
Nothing that is computed changes.
"""

import gc
import logging
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from kd.tools.errors import UserError

WARM_UP = 3
"""Steps that run as they are before one is recorded: the first counts operations and meets what is made once (moments,
sums, terms), the second compiles networks, the last shows whether anything waits for the host."""

log = logging.getLogger(__name__)


def replays(device: torch.device) -> bool:
    """Whether steps on a device read nothing from the host, so that they can be replayed."""
    return device.type == "cuda"


class Graph(Protocol):
    """What runs a step of a stage, records it and replays it."""

    def run(self, step: Callable[[], None]) -> None:
        """Take a step as it is, in a way that prepares for recording."""

    def waits(self, step: Callable[[], None]) -> str | None:
        """Take a step as it is and return what of it, if anything, waits for the host."""

    def record(self, step: Callable[[], None]) -> None:
        """Record a step without taking it; a RuntimeError, where that cannot be done, leaves all as it was."""

    def replay(self) -> None:
        """Take the step that was recorded."""


class CudaGraph:
    """A Graph of torch.cuda."""

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator] = ()) -> None:
        """Make a graph whose steps draw from the device's own generator, or in parts from others."""
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._graph = torch.cuda.CUDAGraph()
        self._generators = [torch.cuda.default_generators[device.index or 0], *generators]
        for generator in generators:
            self._graph.register_generator_state(generator)

    def run(self, step: Callable[[], None]) -> None:
        """Take a step as it is, on the stream that will record one."""
        main = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            step()
        main.wait_stream(self._stream)

    def waits(self, step: Callable[[], None]) -> str | None:
        """Take a step as it is and return what of it, if anything, waits for the host.

        To be told so here is better than by a failed recording, after which torch's allocator holds on to memory.
        """
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self.run(step)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        syncing = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
        for warning in caught:
            if warning not in syncing and "Synchronization debug mode" not in str(warning.message):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return f"{syncing[0].filename}:{syncing[0].lineno} waits for the GPU" if syncing else None

    def record(self, step: Callable[[], None]) -> None:
        """Record a step; while it is recorded, no kernel runs, so that a failure leaves every tensor as it was."""
        main = torch.cuda.current_stream(self._device)
        with _unspoilt(self._generators), _without_garbage():
            try:
                # other threads (those that read images ahead) may go on allocating
                with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                    step()
            finally:
                torch.cuda.set_stream(main)  # a recording that fails stays on its own

    def replay(self) -> None:
        """Take the step that was recorded; torch moves the generator on as the step itself would."""
        self._graph.replay()


@contextmanager
def _unspoilt(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Give generators of a device back as they were if recording fails: torch leaves them unable to draw."""
    states = [generator.get_state() for generator in generators]
    try:
        yield
    except BaseException:
        for generator, state in zip(generators, states, strict=True):
            fresh = torch.Generator(generator.device)
            fresh.set_state(state)
            generator.graphsafe_set_state(fresh.graphsafe_get_state())
        raise


@contextmanager
def _without_garbage() -> Iterator[None]:
    """Collect nothing meanwhile: to free an older graph is not allowed while one is recorded."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Replay:
    """Takes one and the same step again and again: as it is at first, then by a graph of it."""

    def __init__(
        self,
        step: Callable[[], None],
        place: Callable[[], Hashable],
        mend: Callable[[], None],
        graph: Callable[[], Graph],
        name: str,
        wanted: str,
    ) -> None:
        """Take `step`, which messages call `name`, by graphs as the recipe's word `wanted` says: auto, on or off.

        Once `place` returns another value the step finds its tensors elsewhere and is recorded anew; `mend` puts right
        what a step leaves unfinished on the host where recording it fails.
        """
        self._step, self._place, self._mend, self._make = step, place, mend, graph
        self._name, self._wanted, self._off = name, wanted, wanted == "off"
        self.gave_up = False
        self._forget()

    def _forget(self) -> None:
        self._graph: Graph | None = None
        self._warm, self._recorded = 0, False

    def __call__(self) -> None:
        """Take a step.

        Errors: UserError where the recipe insists on a graph and there can be none.
        """
        if self._off:
            self._step()
            return
        if self._warm and self._place() != self._at:
            self._forget()
        if self._warm < WARM_UP:
            self._warm_up()
            return
        assert self._graph is not None, "it took the steps before"
        if not self._recorded:
            try:
                self._graph.record(self._step)
            except RuntimeError as error:
                self._give_up(_reason(error))
                self._step()
                return
            self._recorded = True
        self._graph.replay()

    def _warm_up(self) -> None:
        """Take a step as it is, which counts like any other; the last one says whether it can be recorded."""
        self._graph = self._graph or self._make()
        self._warm += 1
        if self._warm < WARM_UP:
            self._graph.run(self._step)
        elif reason := self._graph.waits(self._step):
            self._give_up(reason)
        self._at = self._place()

    def _give_up(self, reason: str) -> None:
        self._forget()
        self._mend()
        if self._wanted == "on":
            raise UserError(f"recipe.capture: on, but {self._name} cannot be captured ({reason}): say auto or off")
        log.warning("%s cannot be captured and runs step by step: %s", self._name, reason)
        self._off = self.gave_up = True


def _reason(error: BaseException) -> str:
    """Return the first line of what went wrong first: ending a recording that failed fails in turn."""
    while error.__context__ is not None:
        error = error.__context__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""Clocks, memory and the machine's own limit."""

import ctypes
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kd.engine.precision import DTYPES
from kd.record.provenance import peak_memory_mb

MATRIX = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product sets the limit."""
PRODUCTS = 3


Loop = Callable[[int], object]
"""Trains on so many batches."""
Progress = Callable[[str], None]


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def busy_clock(device: torch.device) -> bool:
    """Whether time is counted in processor seconds of this process: it then hardly sees other load on the machine.

    That is right for one thread on a CPU; several threads wait for each other, and for a GPU, with a busy processor.
    """
    return device.type == "cpu" and torch.get_num_threads() == 1


def now(device: torch.device) -> float:
    """Return the time of the clock that measures a device, when everything asked of it is done."""
    synchronise(device)
    return time.process_time() if busy_clock(device) else time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long something takes."""
    started = now(device)
    work()
    return now(device) - started


@dataclass
class Timing:
    """Seconds that a loop took for each image, in every repeat: by the device's clock, and by the clock on the wall."""

    own: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def images_per_second(self) -> dict[str, Any]:
        """Return images a second by both clocks."""
        return {key: spread([1 / value for value in getattr(self, key)]) for key in ("own", "wall")}

    def ratio_to(self, other: "Timing") -> dict[str, Any]:
        """Return how much faster this loop is than another, repeat by repeat, by both clocks."""
        return {
            key: spread([b / a for a, b in zip(getattr(self, key), getattr(other, key), strict=True)])
            for key in ("own", "wall")
        }


def in_turns(
    loops: Mapping[str, Loop], steps: int, batch_size: int, repeats: int, device: torch.device, progress: Progress
) -> dict[str, Timing]:
    """Time every loop for so many steps, one after the other, again and again."""
    timings = {name: Timing() for name in loops}
    images = steps * batch_size
    for repeat in range(repeats):
        for name, loop in loops.items():
            wall, own = time.perf_counter(), now(device)
            loop(steps)
            timings[name].own.append((now(device) - own) / images)
            timings[name].wall.append((time.perf_counter() - wall) / images)
            progress(f"repeat {repeat + 1} of {repeats}, {name}: {1 / timings[name].own[-1]:.0f} images/s")
    return timings


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, extremes and all values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}


def matrix_flops(device: torch.device, precision: str) -> float:
    """Return the FLOP/s of a large matrix product in the format of a precision, the best of a few."""
    side, dtype = MATRIX[device.type], DTYPES.get(precision, torch.float32)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    result = torch.empty(side, side, device=device, dtype=dtype)
    best = min(seconds(lambda: torch.mm(left, right, out=result), device) for _ in range(PRODUCTS + 1))
    return 2 * side**3 / best


class Stopwatch:
    """Seconds by part; time in a part inside another counts for the inner one alone."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside for a part."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        at = now(self.device)
        if self._open:
            self.parts[self._open[-1]] = self.parts.get(self._open[-1], 0.0) + at - self._since
        self._since = at

    @contextmanager
    def watching(self, *targets: tuple[Any, str, str]) -> Iterator[None]:
        """Count calls of (owner, attribute) for parts until the end of the context.

        A call within "teacher" stays there: the teacher's forward pass is the student's code.
        """
        with ExitStack() as stack:
            for owner, attribute, name in targets:
                stack.enter_context(self._replaced(owner, attribute, name))
            yield

    @contextmanager
    def _replaced(self, owner: Any, attribute: str, name: str) -> Iterator[None]:
        own = attribute in vars(owner)
        original = getattr(owner, attribute)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            """Run the original within its part."""
            if "teacher" in self._open:
                return original(*args, **kwargs)
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, attribute, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, attribute, original)
            else:
                delattr(owner, attribute)


class Memory:
    """MB that something adds at its peak: allocated on a GPU, else resident in this process (workers not counted)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        synchronise(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device) / 2**20
        else:
            _return_freed_memory()
            self.before = _status("VmRSS")

    def added(self) -> float:
        """Return the peak since the start beyond what was in use then."""
        synchronise(self.device)
        peak = peak_memory_mb(self.device) if self.device.type == "cuda" else _status("VmHWM")
        return round(max(0.0, peak - self.before), 1)


def _return_freed_memory() -> None:
    """Give free memory back to the system and forget the peak so far, where Linux allows it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except (OSError, AttributeError):
        return


def _status(key: str) -> float:
    """Return a line of /proc/self/status in MB; without one, the peak of the process."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return peak_memory_mb(torch.device("cpu"))
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))

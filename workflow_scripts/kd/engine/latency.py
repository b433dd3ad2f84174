"""How long a network takes for a few images: a property of a machine and a moment, which decides nothing."""

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

BATCHES, MOST, LEAST, SECONDS = (1, 64), 30, 3, 0.5
KEPT = 0.9
"""Of the time that passed, the least share in which an undisturbed process had a processor."""


@dataclass(frozen=True)
class Latency:
    """The median milliseconds of a forward pass by number of images, and whether others took the processor away."""

    milliseconds: dict[str, float]
    busy: bool


@torch.inference_mode()
def latency(model: nn.Module, image: Tensor) -> Latency:
    """Time a network in eval mode on one image (1,3,H,W), repeated for larger batches, on the threads torch has."""
    found, kept = {}, []
    for size in BATCHES:
        images = image.repeat(size, 1, 1, 1)
        taken: list[float] = []
        model(images)  # the first pass makes room
        began = time.process_time(), time.perf_counter()
        while len(taken) < LEAST or (len(taken) < MOST and sum(taken) < SECONDS):
            started = time.perf_counter()
            model(images)
            taken.append(time.perf_counter() - started)
        kept.append((time.process_time() - began[0]) / (time.perf_counter() - began[1]))
        found[str(size)] = round(1000 * median(taken), 3)
    return Latency(found, min(kept) < KEPT)

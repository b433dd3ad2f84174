"""Weights that rise from the start of training."""

import math

from kd.methods.contract import Progress


def warmed_up(progress: Progress, epochs: int) -> float:
    """Return the share, up to 1, that a warm-up over so many epochs has reached: whole epochs, the first one is 1."""
    return min(1.0, (math.floor(progress.epoch) + 1) / epochs)

"""Weights that fall to nothing in the last part of a training."""

import math

from kd.methods.contract import Progress


def cosine_share(progress: Progress, begin: float) -> float:
    """Return what is left of a weight in an epoch: 1 for a share `begin` of the epochs, then half a cosine to 0.

    Epochs count from 1, so that the last one of a training has nothing left of it (as in WKD's release), unless it is
    the only one.
    """
    epoch = math.floor(progress.epoch) + 1
    fixed = begin * progress.epochs
    if epoch <= fixed or progress.epochs <= 1:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (epoch - fixed) / (progress.epochs - fixed))))

"""Standardised logits, for distillation that compares their order and shape and not their size."""

from torch import Tensor

EPSILON = 1e-7


def standardise(logits: Tensor) -> Tensor:
    """Return logits (B,C) shifted and scaled to mean 0 and standard deviation 1 in every row.

    The deviation is the unbiased one (C - 1) with 1e-7 added, as Sun et al. (2024) released it. It belongs in front of
    a divergence, never of a cross-entropy, which needs the logits' size.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (logits.std(dim=1, keepdim=True) + EPSILON)

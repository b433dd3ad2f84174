"""Ablation of CKD: the two sides of a group are mixed at random instead of subtracted (Wilf et al. 2023)."""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from kd.methods.ckd import CKD, side_means
from kd.methods.contract import Batch


class CKDMixup(CKD):
    """CKD with lambda of one side plus 1 - lambda of the other; images stay as they are."""

    def draw(self, side: int, generator: Generator) -> Tensor:
        """Draw lambda, uniform from 0 to 1, for a whole batch."""
        return torch.rand((), generator=generator)

    def prepare(self, batch: Batch, drawn: Tensor) -> Batch:
        """Note lambda with the batch."""
        return replace(batch, mixing=drawn)

    def compared(self, values: Tensor, batch: Batch) -> Tensor:
        """Return the mixture of both sides' means, (B,C)."""
        first, second = side_means(values, self.positives)
        return batch.mixing * first + (1 - batch.mixing) * second

"""Exponential moving average of a network's weights."""

import copy

import torch
from torch import nn


class EMA:
    """A shadow network: parameters decay towards the trained ones, buffers are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the trained network."""
        for shadow, parameter in zip(self.model.parameters(), model.parameters(), strict=True):
            shadow.lerp_(parameter, 1 - self.decay)
        for kept, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)

"""Exponential moving average of a network's weights."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """A shadow network: parameters decay towards the trained ones, buffers are copied."""

    def __init__(self, model: Network) -> None:
        self.model: Network = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: Tensor | float) -> None:
        """Go a step of 1 - decay, a scalar, towards the trained network."""
        weight = step.float() if isinstance(step, Tensor) else step
        for shadow, parameter in zip(self.model.parameters(), model.parameters(), strict=True):
            shadow.lerp_(parameter, weight)
        for kept, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)

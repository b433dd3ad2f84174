"""Distillation-oriented trainer: the losses of distillation get more momentum (Zhao, Cui, Song and Liang 2023)."""

from collections.abc import Mapping

from torch import Tensor

from kd.data.wants import Wants
from kd.methods.contract import Method, Step

CLASSIFICATION, REST = "ce", "*"
"""A term of that name in whatever it is combined with, and every other term."""


class DOT(Method):
    """No loss of its own: it changes how the losses that it is combined with are descended."""

    def wants(self) -> Wants:
        """Want nothing."""
        return Wants(live_teacher=False)

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return no term."""
        return {}

    def momenta(self) -> Mapping[str, float]:
        """Take delta from the momentum of classification, which is decayed, and add it to that of all other terms."""
        return {CLASSIFICATION: -self.settings.delta, REST: self.settings.delta}

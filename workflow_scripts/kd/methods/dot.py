"""Distillation-oriented trainer: the losses of distillation get more momentum (Zhao, Cui, Song and Liang 2023)."""

from collections.abc import Mapping

from torch import Tensor, nn

from kd.data.needs import Needs
from kd.methods.contract import Batch, Method, Outputs, Progress

CLASSIFICATION, REST = "ce", "*"
"""A term of that name in whatever it is combined with, and every other term."""


class DOT(Method):
    """No loss of its own: it changes how the losses that it is combined with are descended."""

    def needs(self) -> Needs:
        """Ask for nothing."""
        return Needs(live_teacher=False)

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return no term."""
        return {}

    def momenta(self) -> Mapping[str, float]:
        """Take delta from the momentum of classification, which is decayed, and add it to that of all other terms."""
        return {CLASSIFICATION: -self.settings.delta, REST: self.settings.delta}

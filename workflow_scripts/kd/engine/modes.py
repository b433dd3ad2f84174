"""How each network runs: number format, memory layout, kernels; as the recipe says, as measured, or by a plain rule."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from kd.engine.precision import Precision, choose_precision
from kd.schema.config import Recipe

log = logging.getLogger(__name__)

TORCH, WINOGRAD, COMPILED = "torch", "winograd", "compiled"
AUTO = "auto"


@dataclass(frozen=True)
class Mode:
    """How a network runs while it is trained, or while it is not."""

    precision: str
    channels_last: bool = True
    kernels: str = TORCH

    @property
    def memory_format(self) -> torch.memory_format:
        """Return the layout of its images, weights and features."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def on(self, device: torch.device) -> Precision:
        """Return its number format on a device."""
        return Precision(self.precision, device)

    def __str__(self) -> str:
        layout = "channels-last" if self.channels_last else "contiguous"
        return f"{self.precision}, {layout}, {self.kernels}"


@dataclass(frozen=True)
class Modes:
    """The two ways in which one network runs."""

    trained: Mode
    frozen: Mode

    def record(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self)


def choose_modes(recipe: Recipe, device: torch.device, choice: Mapping[str, Any] | None = None) -> Modes:
    """Return how a network runs: what the recipe says, else what was measured (`choice`), else a plain rule.

    A choice measured on another kind of device is left aside, with a log line.
    """
    if choice is not None and choice["device"] != device.type:
        log.warning("kernels were chosen on a %s and this job runs on a %s: not used", choice["device"], device.type)
        choice = None
    trained, frozen = (_mode(recipe, device, (choice or {}).get(use, {})) for use in ("trained", "frozen"))
    return Modes(trained, frozen)


def _mode(recipe: Recipe, device: torch.device, measured: Mapping[str, Any]) -> Mode:
    asked = {key: getattr(recipe, key) for key in ("precision", "channels_last", "kernels")}
    found = {key: measured.get(key, AUTO) if value == AUTO else value for key, value in asked.items()}
    return Mode(
        precision=choose_precision(found["precision"], device).name,
        channels_last=bool(found["channels_last"]),  # 'auto' too
        kernels=TORCH if found["kernels"] == AUTO else found["kernels"],
    )

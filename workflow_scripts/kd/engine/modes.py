"""How each network runs: number format, memory layout, kernels; as the recipe says, as measured, or by a plain rule."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from kd.engine.precision import Precision, choose_precision
from kd.models.base import TappedModel
from kd.schema.config import Recipe
from kd.study.options import WINOGRAD as WINOGRAD_CODE
from kd.study.options import option

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


def make_trainable(model: TappedModel, mode: Mode, device: torch.device) -> None:
    """Move a network to its device and layout and give it its convolutions, in place."""
    model.to(device=device, memory_format=mode.memory_format)  # type: ignore[call-overload]
    run_direct(model)
    if mode.kernels == WINOGRAD:
        option(WINOGRAD_CODE).use_winograd(model)


def run_direct(model: nn.Module) -> None:
    """Let every convolution of a model run as torch's, also one that ran in another way before (kd.models.winograd)."""
    for module in model.modules():
        if again := getattr(type(module), "run_direct", None):
            again(module)


def evaluation_mode(recipe: Recipe, device: torch.device) -> Mode:
    """Return how finished weights are evaluated: by the recipe, never by what was measured, and never compiled."""
    mode = choose_modes(recipe, device).frozen
    return replace(mode, kernels=TORCH) if mode.kernels == COMPILED else mode

"""How the images of a network were normalised when it was trained: what it is given is brought to that."""

import importlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from kd.models.base import TappedModel
from kd.models.weights import load_weights, read_state
from kd.schema.architectures import is_timm, module_of
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

log = logging.getLogger(__name__)

KEY = "normalised"
"""Of the notes beside weights."""
OURS = "num_classes"
"""A note that only this project writes; its older files say nothing: their networks saw the data set's statistics."""
SMALLEST_STD = 1e-3
"""As in kd.data.augment: a channel that is constant has a deviation of 0."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, of values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Return that of some statistics."""
        return cls(tuple(map(float, mean)), tuple(map(float, std)))

    @classmethod
    def noted(cls, notes: Mapping[str, str], path: str | Path) -> Self | None:
        """Return what the notes beside weights say, None where they say nothing."""
        if KEY not in notes:
            return None
        try:
            found = json.loads(notes[KEY])
            return cls.of(found["mean"], found["std"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: does not say how images are normalised, found '{notes[KEY][:60]}'") from error

    def notes(self) -> dict[str, str]:
        """Return the note that says so beside weights."""
        return {KEY: json.dumps(asdict(self))}

    def spread(self) -> Tensor:
        """Return the standard deviations as images are divided by them, (C,)."""
        return torch.tensor(self.std).clamp_min(SMALLEST_STD)


def see_as(model: TappedModel, own: Normalisation | None, given: Normalisation) -> None:
    """Let a network that is `given` images normalised in one way see them as its `own` were; None is the same way.

    Where both are the same nothing is done to the images at all. Black borders stay black, grey squares stay grey: they
    are the same images.
    """
    model.normalised = None if own == given else own
    if model.normalised is None or own is None:
        model.see(None, None)
        return
    if len(own.mean) != len(given.mean) or len(own.std) != len(given.std):
        raise UserError(f"{model.arch}: images have {len(given.mean)} channels, its normalisation has {len(own.mean)}")
    scale = given.spread() / own.spread()
    shift = (torch.tensor(given.mean) - torch.tensor(own.mean)) / own.spread()
    model.see(scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1))


def load_trained(model: TappedModel, path: str | Path, given: Normalisation) -> None:
    """Load weights that this project wrote, and let the network see the images that it is given as it was trained."""
    see_as(model, Normalisation.noted(load_weights(model, path), path), given)


def recorded(models: Mapping[str, TappedModel], given: Normalisation) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return by role what a run's record says of how images are normalised for its networks."""
    return {role: asdict(model.normalised or given) for role, model in models.items()}


def of_finished(settings: ModelSettings, given: Normalisation) -> Normalisation:
    """Return how the images of a network that is used as it is were normalised, as far as anybody says.

    The experiment's file says it, or the weights' own notes; timm's weights are of the timm model's configuration. Else
    it is the data set's way, `given`.
    """
    said = settings.normalisation
    if said == "dataset":
        return given
    if said is not None and said != "timm":
        return Normalisation.of(said.mean, said.std)
    if said is None and isinstance(settings.pretrained, str):
        notes = read_state(settings.pretrained)[1]
        noted = Normalisation.noted(notes, settings.pretrained)
        if noted is not None or OURS in notes:
            return noted or given
    if is_timm(settings.arch):
        found = importlib.import_module(module_of(settings.arch)).normalisation(settings.arch)
        return Normalisation.of(*found)
    return given

"""From the settings of a network to the network: the one place where models are found by name."""

import importlib

import torch

from kd.models.base import TappedModel
from kd.models.weights import load_pretrained
from kd.schema.architectures import is_timm, module_of, own_factory
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError


def build_model(settings: ModelSettings, num_classes: int, image_size: int) -> TappedModel:
    """Return the network with its initial weights, in train mode, on the CPU.

    Fresh weights are drawn from torch's global generator, so the caller seeds. Freezing is not applied here (see
    kd.models.freezing), since stages may change it.
    """
    module = importlib.import_module(module_of(settings.arch))
    model: TappedModel
    if settings.pretrained is True and not is_timm(settings.arch):
        raise UserError(f"pretrained: true needs a timm architecture, found {settings.arch}; a path is allowed")
    if is_timm(settings.arch):
        model = module.build(settings.arch, num_classes, settings.pretrained, settings.small_input, image_size)
    else:
        sizes = (num_classes, image_size) if own_factory(settings.arch) else (num_classes,)
        model = module.build(settings.arch, *sizes)
        if isinstance(settings.pretrained, str):
            load_pretrained(model, settings.pretrained)
    _check_image_size(model, image_size)
    return model


def _check_image_size(model: TappedModel, image_size: int) -> None:
    """Raise a UserError if the strides leave nothing of such images, before data or an optimiser exist."""
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, image_size, image_size), (*model.stage_taps, "embedding"))
    except UserError:
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{model.arch} cannot process images of {image_size}x{image_size}: {reason}") from error
    model.train()

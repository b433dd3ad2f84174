"""Partial freezing, with one meaning of the level for every architecture."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kd.models.base import TappedModel
from kd.spec.errors import UserError

_FROZEN = "_frozen_norms"


def freeze(model: TappedModel, level: int, freeze_bn: bool = False) -> None:
    """Train the last `level` blocks and the head, 0 the head only, -1 everything.

    Only requires_grad changes, so an optimiser may hold all parameters and a later call may unfreeze some. BatchNorm of
    frozen blocks, and with `freeze_bn` every BatchNorm, keeps its parameters and, through `keep_frozen_in_eval`, its
    running statistics. A level the network has too few blocks for is a UserError.
    """
    blocks = model.blocks()
    if not -1 <= level <= len(blocks):
        raise UserError(f"freeze: {level} does not suit {model.arch}, allowed are -1 to {len(blocks)} (its blocks)")
    everything = level in (-1, len(blocks))
    model.requires_grad_(everything)
    trained: list[nn.Module] = [model] if everything else [model.head(), *blocks[len(blocks) - level :]]
    for part in trained:
        part.requires_grad_(True)
    moving = {module for part in trained for module in part.modules()}
    frozen = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and (freeze_bn or norm not in moving)]
    for norm in frozen:
        norm.requires_grad_(False)
    # Names, not modules: they survive a deep copy, and requires_grad alone could be changed by a role in the team.
    ids = {id(norm) for norm in frozen}
    setattr(model, _FROZEN, tuple(name for name, module in model.named_modules() if id(module) in ids))
    keep_frozen_in_eval(model)


def keep_frozen_in_eval(model: nn.Module) -> None:
    """Put frozen BatchNorm back to eval mode; to be called after every `model.train()`."""
    for name in getattr(model, _FROZEN, ()):
        model.get_submodule(name).eval()

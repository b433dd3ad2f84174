"""Partial freezing, with one meaning of the level for every architecture."""

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kd.models.base import Origin, TappedModel
from kd.tools.errors import UserError

_FROZEN = "_frozen_norms"
LAYER_NORMS = (nn.LayerNorm, nn.GroupNorm)
"""Norms without running statistics; timm's variants are subclasses of these."""


Norms = Literal["blocks", "all", "none"]
"""Which norms are frozen: those of frozen blocks, all of them, or none."""


@dataclass(frozen=True)
class Freezing:
    """What of a network is frozen: all but the last `level` blocks and the head, and which norms."""

    level: int = -1
    batch_norms: Norms = "blocks"
    layer_norms: Norms = "blocks"


def freeze(model: TappedModel, level: int, freeze_bn: bool = False) -> None:
    """Train the last `level` blocks and the head, 0 the head only, -1 everything; freeze_bn freezes every BatchNorm."""
    apply_freezing(model, Freezing(level, "all" if freeze_bn else "blocks"))


def apply_freezing(model: TappedModel, freezing: Freezing) -> None:
    """Let some of a network train, and the rest stay as it is; a residual adapter always trains.

    Only requires_grad changes, so an optimiser may hold all parameters and a later call may unfreeze some. Frozen
    BatchNorm keeps its parameters and, through `keep_frozen_in_eval`, its running statistics. A level the network has
    too few blocks for is a UserError.
    """
    blocks, level = model.blocks(), freezing.level
    if not -1 <= level <= len(blocks):
        raise UserError(f"freeze: {level} does not suit {model.arch}, allowed are -1 to {len(blocks)} (its blocks)")
    everything = level in (-1, len(blocks))
    trained: list[nn.Module] = [model] if everything else [model.head(), *blocks[len(blocks) - level :]]
    trained += [model.get_submodule(path) for path in model.added]
    model.requires_grad_(everything)
    for part in trained:
        part.requires_grad_(True)
    moving = {module for part in trained for module in part.modules()}
    for kind, which in ((_BatchNorm, freezing.batch_norms), (LAYER_NORMS, freezing.layer_norms)):
        norms = {module for module in model.modules() if isinstance(module, kind)}
        for norm in norms:
            norm.requires_grad_(which == "none" or (which == "blocks" and norm in moving))
        moving = (moving - norms) | {
            norm for norm in norms if which == "none" or (which == "blocks" and norm in moving)
        }
    # Names, not modules: they survive a deep copy, and requires_grad alone could be changed by a role in the team.
    still = [name for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m not in moving]
    setattr(model, _FROZEN, tuple(still))
    keep_frozen_in_eval(model)


def refuse_frozen_draws(model: TappedModel) -> None:
    """Raise a UserError if something that nothing will train was initialised at random when the network was built."""
    drawn = None if model.origin is None else set(model.origin.not_loaded)
    still = [n for n, p in model.named_parameters() if not p.requires_grad and (drawn is None or n in drawn)]
    if still:
        raise UserError(
            f"freeze: {model.arch} would keep {still[0]} as it was drawn at random (one of {len(still)} parameters): "
            "give weights that hold it (pretrained), or freeze less"
        )


def refuse_unfinished(origin: Origin | None) -> None:
    """Raise a UserError for the weights of a finished teacher (train: false) that would not be used as they are."""
    assert origin is not None, "the configuration asks for weights"
    if origin.not_loaded:
        raise UserError(
            f"train: false uses {origin.file} as it is, but it does not give {', '.join(origin.not_loaded)} "
            "(a head for another number of classes): train the teacher, or give one that learnt these classes"
        )
    if origin.adapted:
        raise UserError(
            f"train: false uses {origin.file} as it is, but {', '.join(origin.adapted)} could not stay as it was: "
            "set small_input: false and the image_size that it was trained with, or train the teacher"
        )


def keep_frozen_in_eval(model: nn.Module) -> None:
    """Put frozen BatchNorm back to eval mode; to be called after every `model.train()`."""
    for name in getattr(model, _FROZEN, ()):
        model.get_submodule(name).eval()

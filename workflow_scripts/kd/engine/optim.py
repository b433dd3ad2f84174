"""Optimisers and learning-rate schedules of a recipe."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from kd.spec.config import Recipe


def lr_factor(recipe: Recipe, epoch: float) -> float:
    """Return the learning rate at a fractional number of epochs done, as a share of the recipe's.

    Steps fall once a milestone's epochs are complete (150: the first decayed epoch is the 151st).
    """
    if epoch < recipe.warmup_epochs:
        # Never 0: the first step counts too.
        return max(epoch, 1e-3) / recipe.warmup_epochs
    floor = recipe.min_lr / recipe.lr
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "step":
        ends = [m * recipe.epochs if m < 1 else m for m in recipe.milestones]
        return max(floor, recipe.gamma ** sum(epoch >= math.floor(end + 1e-9) for end in ends))
    span = recipe.epochs - recipe.warmup_epochs
    share = min(1.0, (epoch - recipe.warmup_epochs) / span)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def build_optimizer(
    recipe: Recipe, groups: Iterable[tuple[Iterable[nn.Parameter], float]], device: torch.device
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over (parameters, learning-rate scale) groups; weight decay acts on all of them."""
    listed = [
        {"params": list(parameters), "lr": recipe.lr * scale, "base_lr": recipe.lr * scale}
        for parameters, scale in groups
    ]
    fused = device.type == "cuda" or None
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            listed, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay, fused=fused
        )
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(listed, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its base learning rate times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor

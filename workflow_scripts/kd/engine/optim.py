"""Optimisers and learning-rate schedules of a recipe."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd.engine.shortcuts import SGD, Adam, AdamW, Eager
from kd.schema.config import Recipe
from kd.tools.errors import UserError

REST = "*"
"""Stands for every term that has no momentum of its own."""

Gradients = Sequence[Sequence[Tensor | None]]
"""Branch by branch, one gradient a parameter, None where the branch does not reach it."""


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


def clip_norm(recipe: Recipe, share: float) -> float:
    """Return the largest gradient norm at a share of training: grad_clip, held, then on a line to grad_clip_final."""
    if recipe.grad_clip_final is None or share <= recipe.grad_clip_hold:
        return recipe.grad_clip
    way = (share - recipe.grad_clip_hold) / (1 - recipe.grad_clip_hold)
    return recipe.grad_clip + (recipe.grad_clip_final - recipe.grad_clip) * way


def build_optimizer(
    recipe: Recipe,
    groups: Iterable[tuple[Iterable[nn.Parameter], float]],
    replayable: bool,
    momenta: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over (parameters, learning-rate scale) groups; weight decay acts on all of them.

    One that is `replayable` takes its learning rates from tensors on the device (fused kernels). With `momenta` of
    terms (Method.momenta) it is a SplitMomentum with one branch for each entry of `branches`.
    """
    listed = [
        {"params": list(parameters), "lr": recipe.lr * scale, "base_lr": recipe.lr * scale}
        for parameters, scale in groups
    ]
    if momenta:
        return _split_momentum(recipe, listed, branches(momenta))
    fused = replayable or None
    if recipe.optimizer == "sgd":
        return SGD(
            listed, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay, fused=fused
        )
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(listed, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=fused, capturable=replayable)


def set_lr(optimizer: torch.optim.Optimizer, factor: Tensor | float) -> None:
    """Set every group to its base learning rate times a factor; a tensor stays one, in what fused kernels read."""
    for group in optimizer.param_groups:
        lr = group["base_lr"] * factor
        group["lr"] = lr.float() if isinstance(lr, Tensor) else lr


def descend(
    optimizer: torch.optim.Optimizer, total: Tensor, scaler: torch.amp.GradScaler, max_norm: Tensor | None = None
) -> None:
    """Take one step down a scalar loss, scaled where the scaler is enabled (fp16), clipped where there is a norm."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(total).backward()
    if max_norm is not None:
        scaler.unscale_(optimizer)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, shrinkage(gradients, max_norm))
    scaler.step(optimizer)
    scaler.update()


def shrinkage(gradients: Sequence[Tensor], max_norm: Tensor) -> Tensor:
    """Return by how much gradients are multiplied so that their norm is at most `max_norm`, both scalars.

    As torch.nn.utils.clip_grad_norm_ to the last bit, which would ask the host for the norm that is allowed.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    return ((norm + 1e-6).reciprocal() * max_norm.to(norm.dtype)).clamp(max=1.0)


# --- momentum by term ---------------------------------------------------------------------------------


def branches(momenta: Mapping[str, float]) -> dict[str, float]:
    """Return by how much the momentum of each branch is higher: the terms of `momenta` in order, then all others."""
    return {**{term: offset for term, offset in momenta.items() if term != REST}, REST: momenta.get(REST, 0.0)}


def branch_totals(weighted: Mapping[str, Tensor], momenta: Mapping[str, float]) -> list[Tensor | None]:
    """Return the sum of the weighted terms of each branch, None for a branch without a term.

    A term of one of several combined methods, 'method.term', belongs where 'term' does.
    """
    found: dict[str, list[Tensor]] = {branch: [] for branch in branches(momenta)}
    for name, value in weighted.items():
        term = name.rsplit(".", 1)[-1]
        found[term if term in found else REST].append(value)
    return [torch.stack(values).sum() if values else None for values in found.values()]


class SplitMomentum(Eager):
    """SGD that keeps a momentum buffer for each branch of the loss (Zhao et al. 2023, DOT).

    Branch k has momentum m + offsets[k]; a parameter that only one branch reaches has m + mean(offsets). A parameter is
    decayed once, by the first branch that reaches it (the classification loss comes first). It moves by the learning
    rate times the sum of its buffers: with offsets of 0 this is SGD. The gradients of `step` come from
    `branch_gradients`; p.grad is not read.
    """

    # what torch.amp.GradScaler asks: it then tells of an overflow in `found_inf`, and does not read it itself
    _step_supports_amp_scaling = True
    found_inf: Tensor

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float,
        offsets: Sequence[float],
        weight_decay: float = 0.0,
    ) -> None:
        offsets = tuple(offsets)
        if not all(0 <= momentum + offset < 1 for offset in offsets):
            raise UserError(
                f"momentum {momentum} with offsets {', '.join(f'{offset:+g}' for offset in offsets)} of its branches: "
                "allowed is a momentum of every branch from 0 to below 1"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "offsets": offsets, "weight_decay": weight_decay})

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of all groups, in the order of the gradients that `step` takes."""
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, gradients: Gradients) -> None:  # type: ignore[override]
        """Move the parameters, given one list of gradients a branch (None: the branch does not reach the parameter).

        The gradients are unscaled; nothing moves where a scaler found that they are not finite.
        """
        by_parameter = list(zip(*gradients, strict=True))
        assert len(by_parameter) == len(self.parameters), "one gradient or None a parameter and branch"
        start = 0
        for group in self.param_groups:
            size = len(group["params"])
            for (branch, momentum, decayed), rows in _batches(group, by_parameter[start : start + size]).items():
                parameters, found = map(list, zip(*rows, strict=True))
                decay = group["weight_decay"] if decayed else 0.0
                self._move(branch, momentum, decay, group["lr"], parameters, found)
            start += size

    def _move(
        self,
        branch: int,
        momentum: float,
        decay: float,
        lr: Tensor | float,
        parameters: list[Tensor],
        gradients: list[Tensor],
    ) -> None:
        buffers = [self._buffer(p, branch) for p in parameters]
        may_overflow = hasattr(self, "found_inf")
        before = [value.clone() for value in (*buffers, *parameters)] if may_overflow else []
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        if decay:
            torch._foreach_add_(buffers, parameters, alpha=decay)
        if isinstance(lr, Tensor):
            torch._foreach_sub_(parameters, torch._foreach_mul(buffers, lr))
        else:
            torch._foreach_add_(parameters, buffers, alpha=-lr)
        if may_overflow:
            for value, old in zip((*buffers, *parameters), before, strict=True):
                value.copy_(torch.where(self.found_inf > 0, old, value))

    def _buffer(self, parameter: Tensor, branch: int) -> Tensor:
        state, key = self.state[parameter], f"momentum_{branch}"
        if key not in state:
            state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state[key]


def _batches(
    group: Mapping[str, Any], gradients: Sequence[Sequence[Tensor | None]]
) -> dict[tuple[int, float, bool], list[tuple[nn.Parameter, Tensor]]]:
    """Return (parameter, gradient) by (branch, momentum, whether it decays), lower branches first.

    A branch decays a parameter before a later one moves it.
    """
    offsets = group["offsets"]
    found: dict[tuple[int, float, bool], list[tuple[nn.Parameter, Tensor]]] = {}
    for parameter, own in zip(group["params"], gradients, strict=True):
        reached = [(branch, gradient) for branch, gradient in enumerate(own) if gradient is not None]
        for place, (branch, gradient) in enumerate(reached):
            offset = offsets[branch] if len(reached) > 1 else sum(offsets) / len(offsets)
            found.setdefault((branch, group["momentum"] + offset, place == 0), []).append((parameter, gradient))
    return {key: found[key] for key in sorted(found)}


def branch_gradients(totals: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> list[list[Tensor | None]]:
    """Return the gradient of each branch's total, by one backward pass a branch over the same graph.

    A compiled module survives several passes only if torch._functorch.config.donated_buffer was off when it compiled.
    """
    present = [k for k, total in enumerate(totals) if total is not None]
    found: list[list[Tensor | None]] = []
    for k, total in enumerate(totals):
        if total is None:
            found.append([None] * len(parameters))
            continue
        again = k != present[-1]
        found.append(list(torch.autograd.grad(total, parameters, retain_graph=again, allow_unused=True)))
    return found


def descend_by_branch(
    optimizer: SplitMomentum,
    totals: Sequence[Tensor | None],
    scaler: torch.amp.GradScaler,
    max_norm: Tensor | None = None,
) -> None:
    """Take one step down the branches' totals, scalars, scaled for fp16 where the scaler is enabled.

    A `max_norm` clips the norm of the gradient summed over branches, so all branches shrink by the same factor.
    """
    parameters = optimizer.parameters
    scaled = [None if total is None else scaler.scale(total) for total in totals]
    gradients = branch_gradients(scaled, parameters)
    if scaler.is_enabled() or max_norm is not None:
        for parameter, own in zip(parameters, zip(*gradients, strict=True), strict=True):
            reached = [gradient for gradient in own if gradient is not None]
            parameter.grad = torch.stack(reached).sum(dim=0) if reached else None
        # a loss of one, scaled, is the scale; asking the scaler for it would wait for the device
        gradients = _scaled(gradients, scaler.scale(parameters[0].new_ones(())).reciprocal())
        scaler.unscale_(optimizer)
    if max_norm is not None:
        summed = [p.grad for p in parameters if p.grad is not None]
        gradients = _scaled(gradients, shrinkage(summed, max_norm))
    scaler.step(optimizer, gradients)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


def _scaled(gradients: Gradients, factor: Tensor | float) -> list[list[Tensor | None]]:
    # Not in place: two parameters may have been given one and the same tensor.
    return [[None if gradient is None else gradient * factor for gradient in branch] for branch in gradients]


def _split_momentum(recipe: Recipe, listed: list[dict[str, Any]], offsets: Mapping[str, float]) -> SplitMomentum:
    if recipe.optimizer != "sgd" or recipe.nesterov:
        found = f"{recipe.optimizer} with nesterov" if recipe.nesterov else recipe.optimizer
        raise UserError(f"momenta by term (method dot) need recipe.optimizer sgd without nesterov, found {found}")
    return SplitMomentum(listed, recipe.lr, recipe.momentum, tuple(offsets.values()), recipe.weight_decay)

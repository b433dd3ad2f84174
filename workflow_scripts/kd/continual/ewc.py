"""Elastic weight consolidation (Kirkpatrick et al. 2017), summed over tasks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.models.base import TappedModel

Named = Mapping[str, Tensor]


def fisher(model: TappedModel, images: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information of the trainable parameters, by name.

    `images` yields batches (B,3,H,W) as the model takes them and labels (B,). F is the mean over images of the squared
    gradient of log p(label | image): of each image alone, since squares of batch gradients shrink with the batch. The
    model is put in eval mode and left there.
    """
    model.eval()
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    sums, count = [torch.zeros_like(p) for p in parameters], 0
    for batch, labels in images:
        for image, label in zip(batch.split(1), labels.split(1), strict=True):
            loss = F.cross_entropy(model(image)[0], label)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient**2
            count += 1
    return {name: total / count for name, total in zip(names, sums, strict=True)}


@dataclass(frozen=True)
class Anchors:
    """The penalty sum_t sum_i F_ti (theta_i - theta*_ti)^2 over tasks t, in the memory of one task.

    A sum of parabolas is one parabola: importance A = sum_t F_t about the mean anchor m = sum_t F_t theta*_t / A, plus
    a constant `offset` (the parallel-axis theorem), so nothing is approximated.
    """

    importance: dict[str, Tensor]
    anchor: dict[str, Tensor]
    offset: Tensor

    @classmethod
    def of_task(cls, importance: Named, parameters: Named) -> "Anchors":
        """Return the penalty of one task: its Fisher information about the parameters at its end."""
        anchor = {name: parameters[name].detach().clone() for name in importance}
        first = next(iter(importance.values()))
        return cls(dict(importance), anchor, torch.zeros((), dtype=first.dtype, device=first.device))

    def plus(self, later: "Anchors") -> "Anchors":
        """Return the sum of both penalties; the later one may have more outputs in the head, which only it weighs."""
        importance, anchor, offset = {}, {}, self.offset + later.offset
        for name, second in later.importance.items():
            first = widened(self.importance[name], second)
            m, n = widened(self.anchor[name], second), later.anchor[name]
            total = first + second
            share = torch.where(total > 0, second / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
            importance[name], anchor[name] = total, torch.lerp(m, n, share)
            offset = offset + (first * share * (m - n) ** 2).sum()
        return Anchors(importance, anchor, offset)

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the scalar penalty of parameters, of which the head may have more outputs than were anchored."""
        terms = [
            (importance * (_first_rows(parameters[name], importance) - self.anchor[name]) ** 2).sum()
            for name, importance in self.importance.items()
        ]
        return torch.stack(terms).sum() + self.offset

    def to(self, device: torch.device) -> "Anchors":
        """Return the penalty on a device."""
        importance = {name: value.to(device) for name, value in self.importance.items()}
        anchor = {name: value.to(device) for name, value in self.anchor.items()}
        return Anchors(importance, anchor, self.offset.to(device))

    def state(self) -> dict[str, object]:
        """Return plain tensors for a file."""
        there = self.to(torch.device("cpu"))
        return {"importance": there.importance, "anchor": there.anchor, "offset": there.offset}


def _first_rows(value: Tensor, like: Tensor) -> Tensor:
    return value if value.shape == like.shape else value[: len(like)]


def widened(narrow: Tensor, like: Tensor) -> Tensor:
    """Return a tensor with zeros after its last row, up to the shape of another; equal shapes come back as they are."""
    if narrow.shape == like.shape:
        return narrow
    assert narrow.shape[1:] == like.shape[1:], "only the head grows, by rows"
    wide = torch.zeros_like(like)
    wide[: len(narrow)] = narrow
    return wide


def grow(model: nn.Module, before: Named) -> None:
    """Load the state of the same network with fewer outputs; the rows of new outputs keep what they have."""
    state = model.state_dict()
    for name, value in before.items():
        state[name][: len(value)].copy_(value) if value.ndim else state[name].copy_(value)

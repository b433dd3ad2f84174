"""Learned modules between student features and teacher targets, built from measured shapes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods.contract import STUDENT, Context, teacher
from kd.tools.errors import UserError


class TapPair(NamedTuple):
    """Shapes (C,H,W) of a student's and a teacher's map that are compared, and which they are."""

    student: torch.Size
    target: torch.Size
    where: str

    def regressor(self, relu: bool = True) -> nn.Sequential:
        """Return the `hint_regressor` from the one to the other."""
        return hint_regressor(self.student, self.target, self.where, relu)


def tap_pairs(method: str, context: Context) -> list[TapPair]:
    """Return the pairs of maps that a method named, in order."""
    names = zip(context.named[STUDENT], context.named[teacher(0)], strict=True)
    shapes = zip(context.features(STUDENT), context.features(teacher(0)), strict=True)
    return [
        TapPair(own, target, f"method {method}, taps {s} and {t}")
        for (own, target), (s, t) in zip(shapes, names, strict=True)
    ]


def connected(modules: nn.Module, features: Sequence[Tensor]) -> list[Tensor]:
    """Return features, each passed through its own of a list of modules."""
    return [module(feature) for module, feature in zip(modules.children(), features, strict=True)]


def hint_regressor(student: torch.Size, teacher: torch.Size, where: str, relu: bool = True) -> nn.Sequential:
    """Return convolution, BatchNorm and, with `relu`, ReLU that turn student maps (C,H,W) into the teacher's shape.

    A map of twice the teacher's size is strided (3x3), one of half its size transposed (4x4), any other that is not
    smaller is cut by a valid convolution with kernel 1 + s - t (the regressors of Tian et al. 2020). Every other ratio
    is a UserError that names the taps given in `where`.
    """
    inputs, outputs = student[0], teacher[0]
    s, t = tuple(student[1:]), tuple(teacher[1:])
    convolution: nn.Module
    if s == tuple(2 * side for side in t):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    elif t == tuple(2 * side for side in s):
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    elif s[0] >= t[0] and s[1] >= t[1]:
        convolution = nn.Conv2d(inputs, outputs, (1 + s[0] - t[0], 1 + s[1] - t[1]))
    else:
        raise UserError(
            f"{where}: no regressor leads from student maps of {s[0]}x{s[1]} to teacher maps of {t[0]}x{t[1]}: "
            "allowed are maps of half the teacher's size, of the same size or larger"
        )
    layers = [convolution, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """Return a bias-free 1x1 convolution, Kaiming normal (fan out), with BatchNorm between numbers of channels."""
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class UnitEmbedding(nn.Module):
    """A linear layer whose output has length one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, feature: Tensor) -> Tensor:
        """Embed features (B, ...), flattened, as unit vectors (B,D)."""
        return F.normalize(self.linear(feature.flatten(1)), dim=1)

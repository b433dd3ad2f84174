"""Features of student and teacher brought to one size or length, and checks of what taps give."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods.contract import STUDENT, Context, Output, teacher
from kd.tools.errors import UserError, unknown

EMBEDDING, PRE = "embedding", ".pre"
ZERO_SQUARE = 1e-24
SHORT_SQUARE = 1e-12
"""Of vectors so short that their direction is rounding."""


def pool_match(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool maps (B,C,H,W) to the smaller height and width of the two; channels stay as they are."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return pool_to(first, size), pool_to(second, size)


def pool_to(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map to a size unless it has it."""
    return feature if feature.shape[2:] == torch.Size(size) else F.adaptive_avg_pool2d(feature, size)


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Scale vectors along `dim` to length one; one of length zero stays zero.

    One shorter than 1e-6 takes no gradient, which grows by the inverse of the length. (F.normalize divides by a tiny
    number there, which makes it huge.)
    """
    squares = vectors.square().sum(dim=dim, keepdim=True)
    none = squares <= ZERO_SQUARE
    directions = torch.where(none, 0.0, vectors) * torch.where(none, 1.0, squares).rsqrt()
    return torch.where(squares <= SHORT_SQUARE, directions.detach(), directions)


def paired_taps(
    method: str, context: Context, student: Sequence[str], target: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return by role the taps of student and first teacher that names stand for, which are compared one to one.

    Unequal numbers of them, and none, are a UserError.
    """
    own, other = context.resolve(STUDENT, student), context.resolve(teacher(0), target)
    if len(own) != len(other):
        raise UserError(
            f"{method} compares taps one to one, but the student gives {len(own)} ({', '.join(own)}) and the teacher "
            f"{len(other)} ({', '.join(other)}): list as many in student_taps as in teacher_taps"
        )
    if not own:
        allowed = ", ".join(context.taps[STUDENT])
        raise UserError(f"method {method} needs at least one tap of {STUDENT}, found none: allowed are {allowed}")
    return {STUDENT: own, teacher(0): other}


def require_maps(method: str, context: Context, taps: Mapping[str, Sequence[str]]) -> None:
    """Raise a UserError if a tap, by role, is no map (C,H,W)."""
    for role, names in taps.items():
        maps = [tap for tap, shape in context.shapes[role].items() if len(shape) == 3]
        for tap in names:
            if tap not in maps:
                raise unknown(f"feature map of {role} for method {method}", tap, maps)


def require_equal_channels(method: str, context: Context) -> None:
    """Raise a UserError unless two maps or more (C,H,W) are named whose channels are as many in both networks."""
    taps = context.named[STUDENT]
    if len(taps) < 2:
        raise UserError(f"method {method} compares neighbouring taps and needs at least two, found {', '.join(taps)}")
    for tap, own, target in zip(taps, context.features(STUDENT), context.features(teacher(0)), strict=True):
        if own[0] != target[0]:
            raise UserError(
                f"method {method} needs as many channels in the student as in the teacher, but at the student's {tap} "
                f"they have {own[0]} and {target[0]}: take networks of the same widths or other taps"
            )


def before_activation(method: str, context: Context, taps: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return by role the taps before the activations of resolved taps; a model without them is a UserError."""
    return {role: tuple(_before(method, context, role, tap) for tap in names) for role, names in taps.items()}


def _before(method: str, context: Context, role: str, tap: str) -> str:
    twin = tap if tap.endswith(PRE) else tap + PRE
    if twin not in context.taps[role]:
        given = [name for name in context.taps[role] if name.endswith(PRE)]
        raise UserError(
            f"method {method} compares features before their activation, but the {role} has no tap '{twin}': "
            f"allowed are {', '.join(given) or 'none, as in every timm network but ResNets'}"
        )
    return twin


def last_layer(method: str, role: str, output: Output) -> tuple[Tensor, Tensor | None]:
    """Return weight (classes,D) and bias (classes,) of a model's classifier, linear or a 1x1 convolution.

    Any other is a UserError.
    """
    layer = output.classifier
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise UserError(
            f"method {method} needs a classifier that is one linear layer, but that of the {role} is "
            f"{type(layer).__name__}"
        )
    return layer.weight.flatten(1), layer.bias

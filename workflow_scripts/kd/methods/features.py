"""Features of student and teacher brought to one size or length, and checks of what taps give."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods.contract import Context, Output
from kd.tools.errors import UserError, unknown

PRE = ".pre"
ZERO_SQUARE = 1e-24


def pool_match(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool maps (B,C,H,W) to the smaller height and width of the two; channels stay as they are."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return pool_to(first, size), pool_to(second, size)


def pool_to(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map to a size unless it has it."""
    return feature if feature.shape[2:] == torch.Size(size) else F.adaptive_avg_pool2d(feature, size)


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Scale vectors along `dim` to length one; one of length zero stays zero and takes no gradient.

    (F.normalize divides by a tiny number there, which makes its gradient huge.)
    """
    squares = vectors.square().sum(dim=dim, keepdim=True)
    none = squares <= ZERO_SQUARE
    return torch.where(none, 0.0, vectors) * torch.where(none, 1.0, squares).rsqrt()


def require_taps(method: str, role: str, taps: Sequence[str], allowed: Sequence[str]) -> None:
    """Raise a UserError if there is no tap at all."""
    if not taps:
        raise UserError(
            f"method {method} needs at least one tap of {role}, found none: allowed are {', '.join(allowed)}"
        )


def map_shapes(method: str, context: Context, role: str, taps: Sequence[str]) -> list[torch.Size]:
    """Return the shapes (C,H,W) of taps; no tap at all, an unknown one, or one that is no map is a UserError."""
    maps = [tap for tap, shape in context.shapes[role].items() if len(shape) == 3]
    require_taps(method, role, taps, maps)
    for tap in taps:
        if tap not in maps:
            raise unknown(f"feature map of {role} for method {method}", tap, maps)
    return [context.shapes[role][tap] for tap in taps]


def paired_channels(
    method: str, student: Sequence[torch.Size], teacher: Sequence[torch.Size], taps: Sequence[str]
) -> None:
    """Raise a UserError unless there are two taps or more whose maps (C,H,W) have as many channels in both networks."""
    if len(taps) < 2:
        raise UserError(f"method {method} compares neighbouring taps and needs at least two, found {', '.join(taps)}")
    for tap, own, target in zip(taps, student, teacher, strict=True):
        if own[0] != target[0]:
            raise UserError(
                f"method {method} needs as many channels in the student as in the teacher, but at the student's {tap} "
                f"they have {own[0]} and {target[0]}: take networks of the same widths or other taps"
            )


def before_activation(method: str, context: Context, role: str, taps: Sequence[str]) -> tuple[str, ...]:
    """Return the taps before the activations of resolved taps; a model without them is a UserError."""
    twins = tuple(tap if tap.endswith(PRE) else tap + PRE for tap in taps)
    for tap in twins:
        if tap not in context.taps[role]:
            given = [name for name in context.taps[role] if name.endswith(PRE)]
            raise UserError(
                f"method {method} compares features before their activation, but the {role} has no tap '{tap}': "
                f"allowed are {', '.join(given) or 'none, as in every timm network but ResNets'}"
            )
    return twins


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

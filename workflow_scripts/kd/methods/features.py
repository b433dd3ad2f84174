"""Feature maps of student and teacher brought to one size, and the check that taps are maps."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.methods.contract import Context
from kd.spec.errors import UserError, unknown


def pool_match(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool maps (B,C,H,W) to the smaller height and width of the two; channels stay as they are."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return pool_to(first, size), pool_to(second, size)


def pool_to(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map to a size unless it has it."""
    return feature if feature.shape[2:] == torch.Size(size) else F.adaptive_avg_pool2d(feature, size)


def map_shapes(method: str, context: Context, role: str, taps: Sequence[str]) -> list[torch.Size]:
    """Return the shapes (C,H,W) of taps; no tap at all, an unknown one, or one that is no map is a UserError."""
    maps = [tap for tap, shape in context.shapes[role].items() if len(shape) == 3]
    if not taps:
        raise UserError(f"method {method} needs at least one tap of {role}, found none: allowed are {', '.join(maps)}")
    for tap in taps:
        if tap not in maps:
            raise unknown(f"feature map of {role} for method {method}", tap, maps)
    return [context.shapes[role][tap] for tap in taps]

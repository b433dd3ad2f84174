"""Counting floating-point operations."""

from typing import TYPE_CHECKING

from kd.models.winograd import flop_formulas

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


def flop_counter() -> "FlopCounterMode":
    """Return a context that counts the operations of what runs in it, a convolution's whatever its kernel.

    torch's counter is imported here because that takes most of a second, and an evaluation counts nothing.
    """
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False, custom_mapping=flop_formulas())

"""Files with one bit flipped, and what reading them comes to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd.tools.errors import UserError


def read_flipped(path: Path, whole: bytes, position: int, read: Callable[[], Any]) -> tuple[Any, str]:
    """Write a file with bit `position` of `whole` flipped, read it, and return what was read and the refusal or ''."""
    damaged = bytearray(whole)
    damaged[position // 8] ^= 1 << position % 8
    path.write_bytes(damaged)
    try:
        return read(), ""
    except UserError as error:
        return None, str(error)

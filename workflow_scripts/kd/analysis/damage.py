"""How a file that is not as it was written is told."""

from pathlib import Path
from typing import Any

from kd.tools.errors import UserError


def damaged(path: Path, what: str) -> UserError:
    """Return the error that names the file and what is wrong in it."""
    return UserError(f"{path} is damaged: {what}")


def found(value: Any) -> str:
    """Return what stands there, as short as a sentence can bear."""
    if isinstance(value, int) and not -(10**18) < value < 10**18:
        return "a number of more than 18 digits"  # Python refuses to write those of thousands
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

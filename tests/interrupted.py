"""A training that is stopped between two epochs, as a kill stops it."""

from collections.abc import Callable
from typing import Any


class Interrupted(Exception):
    """What stops it."""


def stop_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    """Return what is told of each epoch, and stops a training once it is told of this one."""

    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise Interrupted

    return on_epoch

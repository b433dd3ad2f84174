"""Resume files: all that a training needs to go on as if it had never stopped."""

import logging
from pathlib import Path
from typing import Any

import torch

from kd.tools.errors import UserError
from kd.tools.files import atomic_path, check_zip

log = logging.getLogger(__name__)


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of torch's global generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Set torch's global generators; that of a GPU stays as it is where the state comes from a CPU."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class ResumeFile:
    """A stamped file beside the declared outputs; it goes away once the run is known to have succeeded."""

    def __init__(self, path: Path, stamp: str) -> None:
        self.path = path
        self.stamp = stamp

    def save(self, state: dict[str, Any]) -> None:
        """Write the state whole or not at all."""
        save_state(self.path, {"stamp": self.stamp, **state})

    def load(self) -> dict[str, Any] | None:
        """Return the state of an interrupted run of the same settings, code and inputs, else None."""
        if not self.path.is_file():
            return None
        try:
            state = load_state(self.path)
        except UserError as error:
            log.warning("starting from the beginning: %s", error)
            return None
        if state.get("stamp") != self.stamp:
            log.warning("starting from the beginning: %s belongs to other settings, code or inputs", self.path)
            return None
        return state

    def remove(self) -> None:
        """Delete the file after success."""
        self.path.unlink(missing_ok=True)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Save tensors and plain values whole or not at all, the same bytes for the same state; errors as `atomic_path`."""
    # a file and not its path: torch would write the path's name, here a random one, into the archive
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any]:
    """Load what `save_state` wrote; a damaged file, and anything but tensors and plain values, is a UserError."""
    check_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # the zip reader, the unpickler and the file system raise unrelated types for the same thing
        raise UserError(
            f"{path} cannot be read as a training state ({type(error).__name__}): delete it and run again"
        ) from error

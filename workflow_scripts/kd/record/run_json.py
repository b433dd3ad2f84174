"""What a run says of itself beside its numbers: config.yaml, what it was told, and run.json, how it went and where."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from kd.record.provenance import git_state, hardware, peak_memory_mb, versions
from kd.tools.files import atomic_write


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write config.yaml."""
    atomic_write(folder / "config.yaml", yaml.safe_dump(dict(settings), sort_keys=True))


def run_record(
    settings: Mapping[str, Any],
    digests: Mapping[str, str],
    device: torch.device,
    precision: str,
    seconds: float,
    kernels: Mapping[str, Any] | None = None,
    **numbers: Any,
) -> dict[str, Any]:
    """Return what run.json says of a run that went well: what it was made from, where, and the numbers of its own.

    `digests` are those of code, inputs and split; `kernels` say by role how networks ran, `seconds` how long it took.
    """
    return {
        "status": "ok",
        "settings": dict(settings),
        "digests": dict(digests),
        "versions": versions(),
        "hardware": {**hardware(device, precision), **({} if kernels is None else {"kernels": dict(kernels)})},
        # all that precedes an evaluation counts as training, teachers' passes too
        "seconds": {"train": round(seconds, 3)},
        "peak_memory_mb": peak_memory_mb(device),
        **numbers,
        "git": git_state(),
    }

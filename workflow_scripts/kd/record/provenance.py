"""What a run was made with: versions, hardware, code state."""

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kd.study.digests import SCRIPTS
from kd.tools.machine import cpu_name

PACKAGES = ("torch", "torchvision", "timm", "numpy", "snakemake")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def hardware(device: torch.device, precision: str) -> dict[str, Any]:
    """Return what the job ran on."""
    found: dict[str, Any] = {
        "device": device.type,
        "precision": precision,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "host_cores": os.cpu_count(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        found["visible_devices"] = os.environ["CUDA_VISIBLE_DEVICES"]
    if "SLURM_JOB_ID" in os.environ:
        found["slurm_job"] = os.environ["SLURM_JOB_ID"]
    return found


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MB: allocated on the GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def git_state() -> dict[str, Any]:
    """Return commit and cleanliness of the checkout, or that there is none."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str) -> str:
    folder = Path(SCRIPTS).parent
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True
    ).stdout.strip()

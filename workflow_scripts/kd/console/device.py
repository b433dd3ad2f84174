"""One GPU for a job: a lease that the kernel takes back when the process ends, however it ends."""

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from kd.spec.errors import UserError

_leases: list[IO[str]] = []  # open files hold the locks until the process ends


def lease_gpus(count: int, wait_seconds: float = 60.0) -> list[str]:
    """Reserve devices for this process and show it those alone; call before torch is imported.

    Under Slurm the scheduler has done so already. With 0 devices asked for nothing is changed, so that a lone job on a
    machine with a GPU uses it. A UserError if too few devices are free or there are none.
    """
    if count == 0 or "SLURM_JOB_ID" in os.environ:
        return []
    devices = visible_devices()
    if len(devices) < count:
        raise UserError(
            f"the job asks for {count} GPU(s), this machine shows {len(devices)}: set gpus in the experiment"
        )
    deadline = time.monotonic() + wait_seconds
    while len(taken := _lock(devices, count)) < count:
        for file in taken.values():
            file.close()
        if time.monotonic() > deadline:
            raise UserError(
                f"no {count} of the {len(devices)} GPU(s) came free: limit jobs with --resources gpu={len(devices)}"
            )
        time.sleep(0.5)
    _leases.extend(taken.values())
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    return list(taken)


def visible_devices() -> list[str]:
    """Return the ids of the GPUs that this process may use, without importing torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def _lock(devices: list[str], count: int) -> dict[str, IO[str]]:
    # per host, not in results/, which may be on a network file system
    folder = Path(tempfile.gettempdir()) / f"kd-gpu-leases-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    taken: dict[str, IO[str]] = {}
    for device in devices:
        file = (folder / f"gpu{device}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        taken[device] = file
        if len(taken) == count:
            break
    return taken

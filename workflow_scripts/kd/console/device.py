"""One GPU, or a share of one, for a job: a lease that the kernel takes back when the process ends, however it ends."""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from kd.spec.errors import UserError

_leases: list[IO[str]] = []  # open files hold the locks until the process ends


def lease_gpus(count: int, wait_seconds: float = 60.0) -> list[str]:
    """Reserve devices for this process and show it those alone; call before torch is imported.

    With KD_JOBS_PER_GPU=n, which the workflow sets, up to n processes share a device, on the emptiest of them first.
    Under Slurm the scheduler has given devices already. With 0 devices asked for nothing is changed, so that a lone job
    on a machine with a GPU uses it. A UserError if too few devices are free or there are none.
    """
    if count == 0 or "SLURM_JOB_ID" in os.environ:
        return []
    devices, shares = visible_devices(), int(os.environ.get("KD_JOBS_PER_GPU", "1"))
    if len(devices) < count:
        raise UserError(
            f"the job asks for {count} GPU(s), this machine shows {len(devices)}: set gpus in the experiment"
        )
    deadline = time.monotonic() + wait_seconds
    while len(taken := _lock(devices, count, shares)) < count:
        _release(file for files in taken.values() for file in files)
        if time.monotonic() > deadline:
            raise UserError(
                f"no {count} of the {len(devices)} GPU(s) came free: "
                f"limit jobs with --resources gpu={len(devices) * shares}"
            )
        time.sleep(0.5)
    _leases.extend(file for files in taken.values() for file in files)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    return list(taken)


def visible_devices() -> list[str]:
    """Return the ids of the GPUs that this process may use, without importing torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def _lock(devices: list[str], count: int, shares: int) -> dict[str, list[IO[str]]]:
    """Return the locks of up to `count` devices: the first share of each before the second of any."""
    # per host, not in results/, which may be on a network file system
    folder = Path(tempfile.gettempdir()) / f"kd-gpu-leases-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    taken: dict[str, list[IO[str]]] = {}
    for share in range(shares):
        for device in devices:
            if len(taken) < count and device not in taken:
                files = _share(folder / f"gpu{device}", share, whole=shares == 1)
                taken.update({device: files} if files else {})
    return taken


def _share(path: Path, share: int, whole: bool) -> list[IO[str]]:
    """Return the locks of one share of a device, empty if somebody has it or, if it is whole, any share of it."""
    kinds = [(".lock", fcntl.LOCK_EX if whole else fcntl.LOCK_SH), (f".{share}.lock", fcntl.LOCK_EX)]
    files: list[IO[str]] = []
    for suffix, kind in kinds:
        files.append(path.with_name(path.name + suffix).open("w", encoding="utf-8"))
        try:
            fcntl.flock(files[-1], kind | fcntl.LOCK_NB)
        except OSError:
            _release(files)
            return []
    return files


def _release(files: Iterable[IO[str]]) -> None:
    for file in files:
        file.close()

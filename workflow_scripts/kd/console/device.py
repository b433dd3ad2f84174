"""One GPU, or a share of one, for a job: a lease that the kernel takes back when the process ends, however it ends."""

import fcntl
import os
import re
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kd.tools.errors import UserError

_leases: list[IO[bytes]] = []  # open files hold the locks until the process ends


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


def _lock(devices: list[str], count: int, shares: int) -> dict[str, list[IO[bytes]]]:
    """Return the locks of up to `count` devices: the first share of each before the second of any."""
    taken: dict[str, list[IO[bytes]]] = {}
    with _folder() as folder:
        for share in range(shares):
            for device in devices:
                if len(taken) < count and device not in taken:
                    files = _share(folder, device, share, whole=shares == 1)
                    taken.update({device: files} if files else {})
    return taken


@contextmanager
def _folder() -> Iterator[int]:
    """Open the folder of this user's leases on this machine, which nobody else may write to.

    The temporary folder is everybody's: whoever made the name there first, or put a link in its place, must not decide
    which of our files are opened. Errors: UserError for anything but a folder of the user's own.
    """
    # per host, not in results/, which may be on a network file system
    path = Path(tempfile.gettempdir()) / f"kd-gpu-leases-{os.getuid()}"
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise UserError(
            f"{path} must be a folder of yours, for the locks of GPUs, but there is: {error.strerror}; remove what is "
            "there, or set TMPDIR to a folder of your own"
        ) from error
    try:
        _require_own(os.fstat(folder), path)
        os.fchmod(folder, 0o700)  # an earlier version left it for others to read
        yield folder
    finally:
        os.close(folder)


def _require_own(found: os.stat_result, path: Path) -> None:
    """Raise a UserError unless a file or folder is this user's."""
    if found.st_uid != os.getuid():
        raise UserError(
            f"{path}, for the locks of GPUs, belongs to user {found.st_uid} and not to you ({os.getuid()}): have it "
            "removed, or set TMPDIR to a folder of your own"
        )


def _share(folder: int, device: str, share: int, whole: bool) -> list[IO[bytes]]:
    """Return the locks of one share of a device, empty if somebody has it or, if it is whole, any share of it."""
    name = re.sub(r"[^\w.-]", "_", f"gpu{device}")  # parts of a GPU may be named with slashes
    kinds = [(".lock", fcntl.LOCK_EX if whole else fcntl.LOCK_SH), (f".{share}.lock", fcntl.LOCK_EX)]
    files: list[IO[bytes]] = []
    for suffix, kind in kinds:
        files.append(_file(folder, name + suffix))
        try:
            fcntl.flock(files[-1], kind | fcntl.LOCK_NB)
        except OSError:
            _release(files)
            return []
    return files


def _file(folder: int, name: str) -> IO[bytes]:
    """Open a file that is only ever locked: no link is followed, nothing in it is touched, no program inherits it."""
    # not waiting for the other end, should it be a pipe
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        number = os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        raise UserError(f"{name}, the lock of a GPU, cannot be opened: {error.strerror}; remove it") from error
    file = os.fdopen(number, "r+b", buffering=0)
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        file.close()
        raise UserError(f"{name}, the lock of a GPU, is no plain file: remove it")
    _require_own(found, Path(name))
    return file


def _release(files: Iterable[IO[bytes]]) -> None:
    for file in files:
        file.close()

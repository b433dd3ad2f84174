"""The folder of GPU leases is the user's own, whatever others put into the temporary folder before."""

import os
import stat

import pytest

from kd.console import device
from kd.tools.errors import UserError


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder of everybody's, and a machine with two GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("KD_JOBS_PER_GPU", raising=False)
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    yield tmp_path
    for lease in device._leases:
        lease.close()
    device._leases.clear()


def folder_in(temporary):
    return temporary / f"kd-gpu-leases-{os.getuid()}"


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_files_are_the_users_alone(temporary):
    device.lease_gpus(1)
    assert mode_of(folder_in(temporary)) == 0o700
    assert {mode_of(path) for path in folder_in(temporary).iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_folder_that_others_may_open_is_closed_to_them(temporary, mode):
    folder_in(temporary).mkdir()
    folder_in(temporary).chmod(mode)
    device.lease_gpus(1)
    assert mode_of(folder_in(temporary)) == 0o700


def test_a_link_in_place_of_the_folder_is_not_followed(temporary):
    target = temporary / "elsewhere"
    target.mkdir()
    folder_in(temporary).symlink_to(target)
    with pytest.raises(UserError, match="must be a folder of yours, for the locks of GPUs"):
        device.lease_gpus(1, wait_seconds=0)
    assert list(target.iterdir()) == []


def test_a_link_in_place_of_a_lock_is_not_followed(temporary):
    treasure = temporary / "treasure"
    treasure.write_bytes(b"gold")
    folder_in(temporary).mkdir()
    (folder_in(temporary) / "gpu4.lock").symlink_to(treasure)
    with pytest.raises(UserError, match=r"gpu4\.lock, the lock of a GPU, cannot be opened"):
        device.lease_gpus(1, wait_seconds=0)
    assert treasure.read_bytes() == b"gold"


def test_what_is_in_a_lock_stays(temporary):
    folder_in(temporary).mkdir()
    lock = folder_in(temporary) / "gpu4.lock"
    lock.write_bytes(b"a hard link to something of worth")
    assert device.lease_gpus(1) == ["4"]
    assert lock.read_bytes() == b"a hard link to something of worth"


def test_a_pipe_in_place_of_a_lock_is_refused_and_not_waited_for(temporary):
    folder_in(temporary).mkdir()
    os.mkfifo(folder_in(temporary) / "gpu4.lock")
    with pytest.raises(UserError, match="is no plain file"):
        device.lease_gpus(1, wait_seconds=0)


def test_a_folder_of_somebody_elses_is_refused(temporary, monkeypatch):
    me = os.getuid()
    (temporary / f"kd-gpu-leases-{me + 1}").mkdir()
    monkeypatch.setattr(device.os, "getuid", lambda: me + 1)
    with pytest.raises(UserError, match=rf"belongs to user {me} and not to you \({me + 1}\).*set TMPDIR"):
        device.lease_gpus(1, wait_seconds=0)


def test_no_program_that_a_job_starts_holds_its_lease(temporary):
    device.lease_gpus(1)
    assert not any(os.get_inheritable(lease.fileno()) for lease in device._leases)


def test_a_part_of_a_gpu_whose_name_has_slashes_can_be_leased(temporary, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-1f2e/1/0")
    assert device.lease_gpus(1) == ["MIG-GPU-1f2e/1/0"]
    assert all(path.is_file() for path in folder_in(temporary).iterdir())

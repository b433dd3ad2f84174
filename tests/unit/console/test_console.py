"""What a script says, and where: one sentence and a status for mistakes, bars on terminals, lines elsewhere."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from kd.console import device
from kd.console.progress import Progress
from kd.tools.errors import UserError

SCRIPTS = Path(__file__).parents[3] / "workflow_scripts"


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="backslashreplace", check=False)


def test_a_users_mistake_is_one_line_and_a_status(tmp_path):
    made = ("--made", str(tmp_path / "run" / "made" / "train_student.json"), "identity")
    done = script(
        *("train_student.py", "--settings", '{"seed": 0}', "--data", str(tmp_path), "--out", str(tmp_path / "run")),
        *made,
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "ERROR --settings.dataset: is missing" in done.stderr
    failure = json.loads((tmp_path / "run" / "made" / "train_student.failure.json").read_text(encoding="utf-8"))
    assert failure["rule"] == "train_student"
    assert failure["identity"] == "identity"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"made", "train.log"}


def test_preparing_a_wrong_data_set_leaves_nothing(tmp_path):
    settings = json.dumps({"source": "imagefolder", "root": str(tmp_path / "gone")})
    done = script("prepare_data.py", "--settings", settings, "--out", str(tmp_path / "data"))
    assert done.returncode == 1
    assert "gone" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.npy"))


def test_lines_instead_of_bars_where_there_is_no_terminal(caplog, capsys):
    caplog.set_level(logging.INFO)
    with Progress(20, "train") as on_epoch:
        for epoch in range(1, 21):
            on_epoch({"epoch": epoch, "train_loss": 1.0, "val_top1": 50.0, "seconds": 0.1})
    assert len(caplog.messages) == 10
    assert caplog.messages[-1].startswith("epoch 20/20: train_loss 1, val_top1 50")
    assert "%|" not in capsys.readouterr().err


@pytest.fixture
def two_devices(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    yield
    for lease in device._leases:
        lease.close()
    device._leases.clear()


def test_jobs_get_devices_of_their_own(two_devices, monkeypatch):
    assert device.lease_gpus(1) == ["4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert device.lease_gpus(1) == ["7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(UserError, match="no 1 of the 2 GPU"):
        device.lease_gpus(1, wait_seconds=0)


def test_an_empty_list_of_devices_keeps_jobs_on_the_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.visible_devices() == []
    assert device.lease_gpus(0) == []
    with pytest.raises(UserError, match=r"asks for 1 GPU\(s\), this machine shows 0: set gpus in the exp"):
        device.lease_gpus(1)
    code = "from kd.engine.precision import training_device; print(training_device().type)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout == "cpu\n"


def test_a_lease_ends_with_its_process(two_devices, tmp_path):
    code = (
        "import sys, tempfile; tempfile.gettempdir = lambda: sys.argv[1]\n"
        "from kd.console.device import lease_gpus; print(lease_gpus(2))"
    )
    for _ in range(2):
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(
            command, cwd=SCRIPTS, capture_output=True, text=True, errors="backslashreplace", check=True
        )
        assert done.stdout.strip() == "['4', '7']"


def held_by_processes(tmp_path, count):
    """Start processes that each take a lease, or fail at once, and hold it until they are told to end."""
    code = (
        "import sys, tempfile; tempfile.gettempdir = lambda: sys.argv[1]\n"
        "from kd.console.device import lease_gpus\n"
        "print(*lease_gpus(1, wait_seconds=0), flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "errors": "backslashreplace",
    }
    held = []
    for _ in range(count):  # one after the other, so that who gets which is certain
        process = subprocess.Popen(command, cwd=SCRIPTS, **pipes)
        held.append((process, process.stdout.readline().strip()))
    return held


def test_jobs_share_devices_the_emptiest_first(two_devices, monkeypatch, tmp_path):
    monkeypatch.setenv("KD_JOBS_PER_GPU", "2")
    held = held_by_processes(tmp_path, 5)
    try:
        assert [device for _, device in held] == ["4", "7", "4", "7", ""]
        assert "limit jobs with --resources gpu=4" in held[4][0].stderr.read()
        held[1][0].kill()  # however a process ends, its share is free again
        held[1][0].wait()
        again = held_by_processes(tmp_path, 1)
        held += again
        assert again[0][1] == "7"
        monkeypatch.setenv("KD_JOBS_PER_GPU", "1")
        with pytest.raises(UserError, match="no 1 of the 2 GPU"):  # a whole device is not what others share
            device.lease_gpus(1, wait_seconds=0)
    finally:
        for process, _ in held:
            process.kill()
            process.communicate()
    assert device.lease_gpus(2, wait_seconds=0) == ["4", "7"]


def test_slurm_has_given_the_devices_already(two_devices, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert device.lease_gpus(2) == []


def test_too_few_devices(two_devices):
    with pytest.raises(UserError, match="asks for 3 GPU"):
        device.lease_gpus(3)


def test_only_this_project_speaks_at_info(tmp_path):
    code = (
        "import logging, sys, pathlib; from kd.console.entry import start_logging\n"
        "start_logging(pathlib.Path(sys.argv[1]))\n"
        "logging.getLogger('kd.engine').info('ours'); logging.getLogger('fontTools').info('theirs')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, errors="backslashreplace", check=True)
    assert "ours" in done.stderr
    assert "theirs" not in done.stderr
    assert (tmp_path / "log").read_text(encoding="utf-8") == done.stderr

"""What each library raises when a file cannot grow, said in the file system's words."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd.tools.disk import disk_trouble
from kd.tools.errors import UserError
from kd.tools.files import atomic_path

SCRIPTS = Path(__file__).parents[3] / "workflow_scripts"

SAVERS = {
    "text": 'path.write_text("x" * 100_000, encoding="utf-8")',
    "numpy": "import numpy; numpy.save(path, numpy.zeros(100_000))",
    "numpy archive": "import numpy; numpy.savez(path, x=numpy.zeros(100_000))",
    "safetensors": "import numpy; from safetensors import numpy as st; st.save_file({'x': numpy.zeros(100_000)}, path)",
    "torch": "import torch; torch.save({'x': torch.zeros(100_000)}, path)",
}
ENDINGS = {"numpy": ".npy", "numpy archive": ".npz"}


@pytest.mark.parametrize("name", SAVERS)
def test_every_saver_that_meets_a_limit_is_a_users_sentence_and_leaves_nothing(name, tmp_path):
    target = tmp_path / f"file{ENDINGS.get(name, '.bin')}"
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from kd.tools.errors import UserError; from kd.tools.files import atomic_path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))\n"
        f"try:\n    with atomic_path(sys.argv[1]) as path: {SAVERS[name]}\n"
        "except UserError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(target)]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, errors="backslashreplace", check=False)
    assert done.stdout.startswith(f"cannot write {target}: "), done.stderr
    assert "file too large" in done.stdout.lower() or "No space left on device" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "results"), "Read-only file system"),
        (OSError("500000 requested and 1008 written"), "only a part could be written (No space left on device, "),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "only a part"),
        (ValueError("I/O error: No space left on device (os error 28)"), "No space left on device"),
        (ConnectionError("reset by peer"), "reset by peer"),
    ],
    ids=["full", "read-only", "numpy", "torch", "safetensors", "network"],
)
def test_the_file_systems_words(error, words):
    assert str(disk_trouble(error)).startswith(words)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), ValueError("no"), KeyError("key")], ids=repr)
def test_other_errors_are_not_the_disks(error, tmp_path):
    assert disk_trouble(error) is None
    with pytest.raises(type(error)), atomic_path(tmp_path / "file"):
        raise error


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "file" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*file: Is a directory"), atomic_path(tmp_path / "file") as path:
        path.write_text("text", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

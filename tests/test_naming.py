"""Every process collects the same tests under the same names, whatever the day, the hash seed and the place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from naming import fit

REPOSITORY = Path(__file__).resolve().parents[1]

# imported at the start of Python where it is on the path: a clock that runs a hundred days ahead
LATER = "import time\nnow = time.time\ntime.time = lambda: now() + 8_640_000\n"


def collected(folder: Path, **changes: str) -> subprocess.Popen[str]:
    """Start to collect all tests, without what this run itself was asked to do."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "KD_"))}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", "tests"]
    (folder / "log").mkdir(parents=True)
    return subprocess.Popen(
        [*command, "--basetemp", str(folder / "base")],
        cwd=REPOSITORY,
        env={**kept, "TMPDIR": str(folder), **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
    )


def test_two_processes_collect_the_same_names(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(LATER, encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    processes = [
        collected(tmp_path / "one", PYTHONHASHSEED="1", TZ="Asia/Tokyo"),
        collected(tmp_path / "another", PYTHONHASHSEED="2", PYTHONPATH=str(tmp_path), TZ="UTC", **plain),
    ]
    one, another = (process.communicate()[0].splitlines() for process in processes)
    assert [process.returncode for process in processes] == [0, 0], "\n".join([*one[-20:], *another[-20:]])
    assert one == another
    assert len(one) > 30, "one line a file"


@pytest.mark.parametrize("name", ["a", "test_x[kd-0.5]", "test_x[train/a.png]", "x" * 120], ids=["a", "b", "c", "d"])
def test_fit_names(name):
    assert fit(name)


@pytest.mark.parametrize(
    "name",
    [
        "x" * 121,
        "test_x[\x80]",
        "test_x[\\x80]",
        "test_x[é]",
        "test_x[<f at 0x7f00c0ffee>]",
        "test_x[a-/tmp/b]",
        "a\nb",
    ],
    ids=["long", "byte", "escaped byte", "letter", "address", "place", "line"],
)
def test_names_that_are_refused(name):
    assert not fit(name)


@pytest.mark.parametrize("value", ["x" * 41, "é", b"\x80\x02.", re.compile("x" * 41)], ids=["a", "b", "c", "d"])
def test_a_long_or_odd_value_is_named_by_its_argument(value, request):
    name = request.config.hook.pytest_make_parametrize_id
    assert name(config=request.config, val=value, argname="told") == "told"
    assert name(config=request.config, val="short", argname="told") is None, "left to pytest"


def test_no_two_files_of_tests_have_one_name():
    """They are imported by their bare names."""
    paths = [path for path in (REPOSITORY / "tests").rglob("*.py") if path.stem not in ("conftest", "__init__")]
    names = [path.stem for path in paths]
    assert [str(path) for path in paths if names.count(path.stem) > 1] == []

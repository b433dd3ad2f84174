"""The pinned environment: one list of exact versions, the same for everybody."""

import importlib.util
import os
import re
from pathlib import Path

import pytest
import yaml

ENVS = Path(__file__).resolve().parents[2] / "envs"
PINS = ["requirements.txt", "requirements-dev.txt"]
PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)")
MACHINE = re.compile(
    r"https?://|file:|--(extra-)?index|--find-links|@ |(^|[\s\"'=])/(home|root|opt|tmp|work|usr|mnt)/", re.M
)


def canonical(name: str) -> str:
    """A package's name in the one spelling of the registry."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(file: str) -> list[str]:
    """The lines of a requirement file that name a package."""
    lines = (
        line.split("#")[0].split(";")[0].strip() for line in (ENVS / file).read_text(encoding="utf-8").splitlines()
    )
    return [line for line in lines if line and not line.startswith("-")]


def pins(file: str) -> dict[str, str]:
    """Package -> version of a file of pins."""
    found = (PIN.fullmatch(line) for line in requirements(file))
    return {canonical(match[1]): match[2] for match in found if match}


def conda_requirements() -> tuple[list[str], list[str]]:
    """The conda packages and the pip lines of environment.yaml."""
    dependencies = yaml.safe_load((ENVS / "environment.yaml").read_text(encoding="utf-8"))["dependencies"]
    pip = [line for entry in dependencies if isinstance(entry, dict) for line in entry["pip"]]
    return [entry for entry in dependencies if isinstance(entry, str)], pip


@pytest.mark.parametrize("file", PINS)
def test_every_requirement_is_one_exact_version(file):
    loose = [line for line in requirements(file) if not PIN.fullmatch(line)]
    assert not loose
    assert len(pins(file)) == len(requirements(file)), "a package is pinned twice"


@pytest.mark.parametrize(("sources", "file"), [("requirements.in", PINS[0]), ("requirements-dev.in", PINS[1])])
def test_all_that_was_asked_for_is_pinned(sources, file):
    asked = {canonical(line.split("==")[0]) for line in requirements(sources)}
    assert asked <= pins(file).keys(), "run: python3 envs/task.py pin"


def test_both_files_agree():
    run, develop = map(pins, PINS)
    assert {name: develop[name] for name in run.keys() & develop.keys()} == {
        name: run[name] for name in run.keys() & develop.keys()
    }


def test_torch_and_torchvision_are_of_one_family():
    # torchvision 0.(15 + n) is built against torch 2.n; another pair fails at import (operator torchvision::nms)
    run = pins(PINS[0])
    torch, torchvision = (tuple(map(int, run[name].split(".")[:2])) for name in ("torch", "torchvision"))
    assert (torch[0], torchvision) == (2, (0, torch[1] + 15))


def test_conda_file_installs_the_same_pins():
    packages, pip = conda_requirements()
    assert pip == ["-r requirements.txt"]
    # whatever conda itself installed beside Python and pip would be a second list of versions
    assert [package.split("=")[0] for package in packages] == ["python", "pip"]
    assert packages[0] == "python=3.11"


@pytest.mark.parametrize("path", sorted(path for path in ENVS.iterdir() if path.is_file()), ids=lambda path: path.name)
def test_no_address_and_no_path_of_a_machine(path):
    assert not MACHINE.search(path.read_text(encoding="utf-8"))


@pytest.mark.xdist_group("probe")
def test_a_group_of_tests_stays_together(request):
    """Of the test runner and its plugin, which must fit each other: a group's name stands behind its tests' names."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("tests are not distributed by group")
    assert request.node.nodeid.endswith("@probe")


@pytest.fixture
def task(monkeypatch):
    """The task runner as a module; it is a script that no package holds."""
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "PYTHONUTF8"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("task", ENVS / "task.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_home_that_takes_nothing_is_not_written_to(task, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert task.surroundings() == {**os.environ, "PYTHONUTF8": "1"}
    monkeypatch.setenv("HOME", str(tmp_path / "absent"))
    found = task.surroundings()
    assert Path(found["XDG_CACHE_HOME"]).parent == task.VENV
    assert found["MPLCONFIGDIR"].startswith(found["XDG_CACHE_HOME"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert task.surroundings()["XDG_CACHE_HOME"] == str(tmp_path)


def test_what_a_link_leads_to_is_not_emptied(task, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "pins.sha256").write_text("other pins", encoding="utf-8")
    (tmp_path / ".venv").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(task, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(task, "STAMP", tmp_path / ".venv" / "pins.sha256")
    monkeypatch.setattr(task.subprocess, "call", lambda *_: pytest.fail("nothing is installed"))
    with pytest.raises(task.TaskError, match="elsewhere, which holds other pins than"):
        task.setup()
    assert (tmp_path / "elsewhere" / "pins.sha256").read_text(encoding="utf-8") == "other pins"


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_who_is_a_mere_number_gets_a_name(task, monkeypatch, error):
    def getuser():
        raise error

    monkeypatch.setattr(task.getpass, "getuser", getuser)
    assert task.surroundings()["USER"] == f"user{os.getuid()}"

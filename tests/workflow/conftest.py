"""Experiments that were really run, once for all tests and workers."""

import shutil
from pathlib import Path

import pytest
from checkout import copy_repository, run_once, write_images

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory) -> Path:
    """A copy of the repository in which the quick start has been run on this machine."""
    return run_once(tmp_path_factory, "quickstart")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A copy in which a tiny experiment with two data sets has been run: tiny.yaml."""
    return run_once(tmp_path_factory, "tiny", "--configfile", str(TINY), before=write_images)


@pytest.fixture
def tiny_copy(tiny_run, tmp_path) -> Path:
    """A copy of `tiny_run` that a test may edit; modification times are kept."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy", symlinks=True))


@pytest.fixture
def repository(tmp_path) -> Path:
    """A fresh copy of the repository."""
    return copy_repository(tmp_path / "repository")

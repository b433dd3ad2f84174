"""Experiments that were really run, once for all tests and workers."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import copy_repository, snakemake

TINY = Path(__file__).with_name("tiny.yaml")


def once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """Let the first worker that asks make a folder; the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


def run_once(tmp_path_factory, name: str, *arguments: str, before=lambda folder: None) -> Path:
    def make(folder: Path) -> None:
        before(copy_repository(folder))
        done = snakemake(folder, *arguments)
        (folder / "run.log").write_text(done.stdout)
        assert done.returncode == 0, done.stdout[-5000:]

    return once(tmp_path_factory, name, make)


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory) -> Path:
    """A copy of the repository in which the quick start has been run on this machine."""
    return run_once(tmp_path_factory, "quickstart")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A copy in which a tiny experiment with two data sets has been run: tiny.yaml."""
    return run_once(tmp_path_factory, "tiny", "--configfile", str(TINY), before=write_images)


def write_images(folder: Path) -> None:
    """Write some of the embedded digits as class folders of PNG files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(images[:400], labels[:400], strict=True)):
        path = folder / "data" / "images" / f"digit_{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15).astype("uint8")).convert("RGB").save(path)


@pytest.fixture
def tiny_copy(tiny_run, tmp_path) -> Path:
    """A copy of `tiny_run` that a test may edit; modification times are kept."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy", symlinks=True))


@pytest.fixture
def repository(tmp_path) -> Path:
    """A fresh copy of the repository."""
    return copy_repository(tmp_path / "repository")

"""Experiments that were really run, once for all tests and workers."""

import shutil
from pathlib import Path

import pytest
from checkout import copy_repository, run_once

TINY = Path(__file__).with_name("tiny.yaml")


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

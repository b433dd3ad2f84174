"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere: workers of pytest-xdist share the cores, and one thread each is faster than many.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared material beside the repository; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the shared data folder (../shared) is not on this machine")
    return folder

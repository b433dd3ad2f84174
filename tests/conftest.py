"""Fixtures that every test may use, and what holds for the names of all tests."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from naming import fit

# Before torch is imported anywhere: workers of pytest-xdist share the cores, and one thread each is faster than many.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]

LONGEST_VALUE = 40


def pytest_configure(config: pytest.Config) -> None:
    """Keep what libraries cache in a folder of this session, not in the user's home; all workers share it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="kd-tests-"))
        os.environ["XDG_CACHE_HOME"] = str(folder)
        os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared material beside the repository; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder of shared material beside the repository is not on this machine")
    return folder


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a value that is long or not printable by its argument; pytest itself numbers those of one name."""
    if isinstance(val, bytes):
        return argname
    if isinstance(val, re.Pattern):
        val = val.pattern
    if isinstance(val, str) and (len(val) > LONGEST_VALUE or not fit(val)):
        return argname
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests without a fit name; mark those that read the shared folder."""
    unfit = [item.nodeid for item in items if not fit(item.name)]
    if unfit:
        shown = "\n".join(ascii(name[:300]) for name in unfit[:20])
        raise pytest.UsageError(f"{len(unfit)} test names are long, not printable or of one machine only:\n{shown}")
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)

"""A job with a record, and the images that it reads."""

from pathlib import Path

import pytest

from kd.study import made
from kd.study.job_plan import JobPlan
from kd.study.made import Note, finish, manifest_digest


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"digests": 1}', encoding="utf-8")
    return folder


@pytest.fixture
def job(tmp_path, data) -> JobPlan:
    return JobPlan("train_student", str(tmp_path / "run"), '{"lr":0.1}', "code", data=str(data))


@pytest.fixture(autouse=True)
def fresh_look() -> None:
    """Manifests are read once a process."""
    made._manifest_digest_once.cache_clear()


@pytest.fixture
def results(job, tmp_path) -> list[Path]:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    paths = [folder / "checkpoints" / "best.safetensors", folder / "metrics.csv"]
    for path in paths:
        path.write_text(f"of {path.name}", encoding="utf-8")
    finish(Note(Path(job.record), job.identity, tuple(paths)), manifest_digest(str(job.data)))
    return paths

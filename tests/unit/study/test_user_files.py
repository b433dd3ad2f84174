"""The user's own files: looked for by jobs that are to run, and missed by no finished one."""

import shutil
from pathlib import Path

import pytest
from recorded import end, note_of
from told import look

from kd.study.believed import is_due, is_settled, look_for_files
from kd.study.experiment import check_experiment
from kd.study.job_plan import all_before
from kd.study.jobs import Jobs
from kd.study.jobs.images import contents
from kd.study.made import finish
from kd.study.plan import Plan
from kd.tools.errors import UserError
from kd.tools.files import write_json

BASE = {
    "experiment": "e",
    "datasets": {"images": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet20"], "student": "resnet8"}],
    "methods": ["ce", "kd"],
    "seeds": [0],
    "recipe": {"epochs": 1},
}


def refused(**changes) -> str:
    check_experiment({**BASE, **changes})  # values alone are right
    with pytest.raises(UserError) as told:
        look({**BASE, **changes})
    return str(told.value)


def images(**settings) -> dict:
    return {"datasets": {"images": settings}}


def test_files_and_folders_are_told_apart_before_any_job(tmp_path):
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "file").touch()
    found, gone = (str(tmp_path / name) for name in ("folder.tar", "gone.tar"))
    assert "folder.tar is no file" in refused(**images(source="imagefolder", archives=[found]))
    assert "gone.tar does not exist" in refused(**images(source="imagefolder", archives=[gone]))
    assert "file is a file" in refused(**images(source="imagefolder", root=str(tmp_path / "file")))


def test_what_is_not_there_is_told_before_any_job(tmp_path):
    gone = str(tmp_path / "gone")
    assert "datasets.images.root: folder" in refused(**images(source="cifar10", root=gone))
    assert "gone does not exist" in refused(**images(source="imagenet100", root=str(tmp_path), class_list=gone))
    networks = {"resnet20": {"arch": "resnet20", "pretrained": gone}}
    assert refused(models=networks) == f"models.resnet20.pretrained: file {gone} does not exist"


SOURCES = {
    "folder": {"source": "imagefolder", "root": "pictures", "image_size": 32},
    "archive": {"source": "imagefolder", "archives": ["pictures.tar"], "image_size": 32},
    "class_list": {"source": "imagenet100", "root": "pictures", "class_list": "classes.txt"},
    "cifar": {"source": "cifar10", "root": "pictures"},
}


@pytest.fixture
def files(tmp_path, monkeypatch) -> list[Path]:
    """Return all that a user may start from: images of two classes, an archive, a class list and weights."""
    monkeypatch.chdir(tmp_path)
    for place in ("train/cats", "train/dogs", "val/cats", "val/dogs", "test/cats", "test/dogs"):
        (tmp_path / "pictures" / place).mkdir(parents=True)
        (tmp_path / "pictures" / place / "1.png").touch()
    (tmp_path / "pictures.tar").write_bytes(b"archive" * 1000)
    (tmp_path / "classes.txt").write_text("cats\ndogs\n", encoding="utf-8")
    for name in ("teacher", "student"):
        (tmp_path / f"{name}.safetensors").write_text(name, encoding="utf-8")
    return list(tmp_path.iterdir())


def jobs_of(dataset: dict, **changes) -> Jobs:
    kinds = {"resnet20": "teacher", "resnet8": "student"}
    own = {name: {"arch": name, "pretrained": f"{kind}.safetensors"} for name, kind in kinds.items()}
    return Jobs(Plan(check_experiment({**BASE, "models": own, **images(**dataset), **changes})))


def run(jobs: Jobs) -> dict[str, str]:
    """End all jobs, the first ones first, and return their identities."""
    last = jobs.of("collect")
    every = [*all_before(last), last]
    for job in every:
        if job.rule == "prepare_data":
            made = {"contents": job.contents, "train_images": contents(jobs, "images").train_images}
            write_json(f"{job.folder}/manifest.json", {})
            finish(note_of(job), None, made)
        else:
            end(job)
    return {f"{job.rule} {job.folder}": job.identity for job in every}


def take_away(files: list[Path]) -> None:
    for path in files:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("dataset", SOURCES.values(), ids=SOURCES)
def test_a_finished_experiment_misses_no_file(dataset, files):
    before = run(jobs_of(dataset))
    take_away(files)
    jobs = jobs_of(dataset)
    last = jobs.of("collect")
    assert {f"{job.rule} {job.folder}": job.identity for job in [*all_before(last), last]} == before
    assert is_settled(last)


def test_other_weights_are_other_results(files):
    before = run(jobs_of(SOURCES["folder"]))
    Path("teacher.safetensors").write_text("another teacher", encoding="utf-8")
    last = jobs_of(SOURCES["folder"]).of("collect")
    changed = {name for job in [*all_before(last), last] if before[name := f"{job.rule} {job.folder}"] != job.identity}
    rules = {"train_teacher", "evaluate_teacher", "train_student", "evaluate", "collect"}
    assert {name.split()[0] for name in changed} == rules
    assert not any("/ce/" in name for name in changed)


def test_only_a_job_that_is_to_run_looks_for_its_files(files):
    run(jobs_of(SOURCES["folder"]))
    take_away(files)
    longer = jobs_of(SOURCES["folder"], teacher_recipe={"epochs": 2})
    baseline, student = (longer.of("train_student", run) for run in longer.plan.runs)
    assert not is_due(baseline)
    with pytest.raises(UserError, match=r"models.resnet8.pretrained: file student.safetensors does not exist"):
        look_for_files(student)


def test_images_are_looked_for_where_their_arrays_are_gone_too(files):
    run(jobs_of(SOURCES["folder"]))
    shutil.rmtree("pictures")
    changes = {"recipe": {"epochs": 2}}
    look_for_files(jobs_of(SOURCES["folder"], **changes).of("collect"))
    shutil.rmtree("results/e/images/data")
    with pytest.raises(UserError, match=r"datasets.images.root: folder pictures does not exist"):
        look_for_files(jobs_of(SOURCES["folder"], **changes).of("collect"))

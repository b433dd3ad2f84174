"""Which results are believed: those that say they were made from what is asked, wherever Snakemake's own notes are."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from checkout import copy_repository, environment, planned, snakemake
from dry_run import snakemake_without_jobs
from test_staleness import CONFIG, LIBRARY, RESULTS, edit, one_data_set, others, reconfigure, runs, stale

from kd.models.build import build_model
from kd.models.weights import save_weights
from kd.schema.config import ModelSettings

# one worker: they share the run that they copy
pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("staleness")]

HOME = "results/tiny/first"
OTHER_KD = {"method": "kd", "temperature": 2.0}


def forget(folder: Path) -> None:
    """Lose Snakemake's notes."""
    shutil.rmtree(folder / ".snakemake")


def without_asib(content) -> None:
    content.update(methods=content["methods"][:4], **one_data_set(content))


@pytest.fixture
def other_kd(tiny_copy) -> Path:
    reconfigure(tiny_copy, lambda content: content["methods"].__setitem__(1, OTHER_KD))
    return tiny_copy


def assert_only_kd(jobs) -> None:
    assert runs(jobs) == {("train_student", "kd"), ("evaluate", "kd")}
    assert others(jobs) == RESULTS


def test_lost_notes_make_nothing_stale(tiny_copy):
    forget(tiny_copy)
    assert stale(tiny_copy) == []


def test_results_are_judged_without_notes(other_kd):
    forget(other_kd)
    assert_only_kd(stale(other_kd))


@pytest.mark.parametrize("times", [True, False], ids=["with times", "without times"])
def test_copied_results_are_judged_where_they_lie(times, other_kd, tmp_path):
    """In a clone that never ran. Without their times more may be made again, but never less."""
    clone = copy_repository(tmp_path / "clone")
    for name in ("data", "results"):
        copy = shutil.copy2 if times else shutil.copy
        shutil.copytree(other_kd / name, clone / name, copy_function=copy, dirs_exist_ok=True)
    shutil.copy(other_kd / CONFIG, clone / CONFIG)
    jobs = stale(clone)
    assert ("train_student", "kd") in runs(jobs)
    if times:
        assert_only_kd(jobs)


def test_results_of_a_faster_clock_are_judged_alike(other_kd):
    forget(other_kd)
    ahead = time.time() + 10_000
    for path in (other_kd / HOME).rglob("*"):
        os.utime(path, (ahead, ahead))
    assert ("train_student", "kd") in runs(stale(other_kd))


def test_a_run_that_lies_in_the_place_of_another_is_made_again(tiny_copy):
    kd, other = (tiny_copy / HOME / f"resnet14--resnet8/{method}/seed0" for method in ("kd", "crd"))
    shutil.rmtree(kd)
    shutil.copytree(other, kd)
    assert_only_kd(stale(tiny_copy))


def test_weights_of_another_run_in_the_place_of_a_runs_own_are_noticed(tiny_copy):
    kd, other = (tiny_copy / HOME / f"resnet14--resnet8/{method}/seed0/checkpoints" for method in ("kd", "crd"))
    for name in ("best.safetensors", "last.safetensors"):
        shutil.copy2(other / name, kd / name)
    assert_only_kd(stale(tiny_copy))


def test_a_result_without_a_record_is_made_again(tiny_copy):
    (tiny_copy / HOME / "resnet14--resnet8/kd/seed0/made/train_student.json").unlink()
    assert_only_kd(stale(tiny_copy))


def change_picture(folder: Path) -> None:
    path = next((folder / "data/images/digit_3").iterdir())
    content = path.read_bytes()
    path.write_bytes(content + b"\0")


def add_picture(folder: Path) -> None:
    path = next((folder / "data/images/digit_3").iterdir())
    shutil.copy(path, path.with_name("new.png"))


def remove_picture(folder: Path) -> None:
    next((folder / "data/images/digit_3").iterdir()).unlink()


def rename_class(folder: Path) -> None:
    (folder / "data/images/digit_3").rename(folder / "data/images/digit_33")


@pytest.mark.parametrize(
    ("change", "noted"),
    [(change_picture, True), (add_picture, True), (remove_picture, False), (rename_class, False)],
    ids=["other size", "added", "removed", "class renamed"],
)
def test_pictures_that_changed_are_packed_again(change, noted, tiny_copy):
    change(tiny_copy)
    if not noted:
        forget(tiny_copy)
    jobs = stale(tiny_copy)
    assert {job.wildcards["dataset"] for job in jobs if "dataset" in job.wildcards} == {"second"}
    assert {"prepare_data", "train_teacher", "train_student"} <= {job.rule for job in jobs}


def test_tables_are_made_where_pictures_are_gone(tiny_copy):
    shutil.move(tiny_copy / "data/images", tiny_copy / "data/elsewhere")
    (tiny_copy / "data/images").mkdir()
    edit(tiny_copy, f"{LIBRARY}/reporting/tables.py", "\n\n\ndef ", "\n\n\nEDITED = 1\n\n\ndef ")
    assert {job.rule for job in stale(tiny_copy)} == {"tables"}


def ran(done: subprocess.CompletedProcess) -> set[str]:
    """The rules of the jobs that ran."""
    assert done.returncode == 0, done.stdout[-3000:]
    return set(re.findall(r"^(?:local)?rule (\w+):", done.stdout, re.MULTILINE)) - {"all"}


def drop_tables(results: Path) -> None:
    for name in ("tables", "figures"):
        shutil.rmtree(results / name)
    (results / "report.html").unlink()


def test_tables_of_a_finished_experiment_need_no_pictures(tiny_copy):
    """Nor do they need the arrays that were packed of them."""
    shutil.rmtree(tiny_copy / "data")
    shutil.rmtree(tiny_copy / "results/tiny/second/data")
    drop_tables(tiny_copy / "results/tiny")
    assert ran(snakemake(tiny_copy, "--configfile", CONFIG)) == {"tables", "figures", "page"}
    reconfigure(tiny_copy, lambda content: content["recipe"].update(epochs=2))
    done = snakemake_without_jobs(tiny_copy, "-n", "--configfile", CONFIG, environment=environment())
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == "datasets.second.root: folder data/images does not exist"


FILES = {
    "experiment": "files",
    "datasets": {
        "d": {
            "source": "imagefolder",
            "archives": ["data/images.tar"],
            "split_ratios": {"train": 0.7, "test": 0.3},
            "validation": 0.3,
        }
    },
    "models": {
        "teacher": {"arch": "resnet14", "pretrained": "data/teacher.safetensors", "train": False},
        "student": {"arch": "resnet8", "pretrained": "data/student.safetensors"},
    },
    "pairs": [{"teachers": ["teacher"], "student": "student"}],
    "methods": ["ce"],
    "seeds": [0],
    "recipe": {"epochs": 1, "batch_size": 16, "precision": "fp32", "augmentation": {"crop": "none"}},
    "report": {"references": ["ce"]},
}


def test_tables_of_a_finished_experiment_need_no_archives_and_no_weights(repository):
    from checkout import write_images

    write_images(repository)
    data = repository / "data"
    shutil.make_archive(str(data / "images"), "tar", data / "images")
    for network in FILES["models"].values():
        save_weights(build_model(ModelSettings(arch=network["arch"]), 10, 8), repository / network["pretrained"])
    (repository / "files.yaml").write_text(json.dumps(FILES), encoding="utf-8")
    assert "train_student" in ran(snakemake(repository, "--configfile", "files.yaml"))
    shutil.rmtree(data)
    drop_tables(repository / "results/files")
    assert ran(snakemake(repository, "--configfile", "files.yaml")) == {"tables", "figures", "page"}
    longer = {**FILES, "recipe": {**FILES["recipe"], "epochs": 2}}
    (repository / "files.yaml").write_text(json.dumps(longer), encoding="utf-8")
    done = snakemake_without_jobs(repository, "-n", "--configfile", "files.yaml", environment=environment())
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == "models.student.pretrained: file data/student.safetensors does not exist"


def test_packed_arrays_and_weights_may_be_deleted(tiny_copy):
    shutil.rmtree(tiny_copy / HOME / "data")
    shutil.rmtree(tiny_copy / HOME / "resnet14--resnet8/kd/seed0/checkpoints")
    assert stale(tiny_copy) == []


def test_deleted_results_are_made_again(tiny_copy):
    shutil.rmtree(tiny_copy / HOME / "resnet14--resnet8/kd")
    (tiny_copy / "results/tiny/statistics.json").unlink()
    assert_only_kd(stale(tiny_copy))


def test_training_side_by_side_or_alone_is_the_same_result(tiny_copy):
    reconfigure(tiny_copy, lambda content: content.update(co_train=["kd", "crd"]))
    assert stale(tiny_copy) == []
    reconfigure(tiny_copy, lambda content: content["methods"].__setitem__(1, OTHER_KD))
    jobs = stale(tiny_copy)
    assert [job.rule for job in jobs if job.rule.startswith("train_")] == ["train_students"] * 2


def test_a_run_that_fails_with_new_settings_is_not_shown_with_the_old_ones_number(tiny_copy):
    """Neither is it tried again by who asks for the tables of what there is."""
    hot = {"method": "kd", "recipe": {"lr": 100.0, "epochs": 3}}
    reconfigure(tiny_copy, lambda content: (without_asib(content), content["methods"].__setitem__(1, hot)))
    done = snakemake(tiny_copy, "--configfile", CONFIG, "--keep-going")
    assert done.returncode != 0
    missing = ("--configfile", CONFIG, "--config", "allow_missing=true")
    assert {job.rule for job in planned(tiny_copy, *missing)} == RESULTS
    done = snakemake(tiny_copy, *missing)
    assert done.returncode == 0, done.stdout[-3000:]
    with (tiny_copy / "results/tiny/runs.csv").open(encoding="utf-8") as file:
        (row,) = [row for row in csv.DictReader(file) if row["method"] == "kd"]
    assert (row["status"], row["test_top1_best"]) == ("failed", "")
    assert "training diverged" in row["reason"]
    # back to the settings that worked: the old reason is no reason
    reconfigure(tiny_copy, lambda content: content["methods"].__setitem__(1, "kd"))
    assert_only_kd(stale(tiny_copy))


def test_a_kill_before_the_workflows_own_note_costs_no_training(tiny_copy):
    """Killed when the job has written everything and Snakemake has not noted it; the next start trains nothing."""
    reconfigure(tiny_copy, lambda content: (without_asib(content), content["methods"].__setitem__(1, OTHER_KD)))
    folder = tiny_copy / HOME / "resnet14--resnet8/kd/seed0"
    target = str(folder.relative_to(tiny_copy) / "run.json")
    record = folder / "made" / "train_student.json"
    old = record.read_text(encoding="utf-8")
    # a script that ends only when it is killed, after its record is there
    script, waits = (
        "workflow_scripts/kd/console/training_script.py",  # part of no digest
        "    import atexit, time\n\n    atexit.register(time.sleep, 600)\n",
    )
    edit(tiny_copy, script, "    run(main, parser, rule)", f"{waits}    run(main, parser, rule)")
    with (tiny_copy / "killed.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            ["snakemake", "--cores", "1", target, "--configfile", CONFIG],
            **{"cwd": tiny_copy, "env": environment(), "stdout": log, "stderr": log, "start_new_session": True},
        )
        deadline = time.monotonic() + 300
        while (not record.exists() or record.read_text(encoding="utf-8") == old) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    edit(tiny_copy, script, waits, "")
    before = (folder / "train.log").read_text(encoding="utf-8").count("epoch 1/1")
    snakemake(tiny_copy, "--unlock", "--configfile", CONFIG)
    done = snakemake(tiny_copy, target, "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout[-3000:]
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert "resuming" in log
    assert log.count("epoch 1/1") == before == 2, "once with each of the two settings"
    assert not (folder / "resume.pt").exists()


def test_braces_in_texts_and_paths_are_letters(tmp_path):
    from checkout import write_images

    folder = copy_repository(tmp_path / "a {project} of {wildcards}")
    write_images(folder)
    (folder / "data").rename(folder / "my {method} data")
    content = {
        "experiment": "braces",
        "description": "{seed} and {input.data}, {{doubled}}, {",
        "datasets": {
            "d": {
                "source": "imagefolder",
                "root": "my {method} data/images",
                "subset_size": 60,
                "validation": 0.3,
                "split_ratios": {"train": 0.7, "test": 0.3},
            }
        },
        "pairs": [{"teachers": ["resnet8"], "student": "resnet8"}],
        "methods": ["ce"],
        "seeds": [0],
        "recipe": {"epochs": 1, "batch_size": 16, "precision": "fp32", "augmentation": {"crop": "none"}},
    }
    (folder / "braces.yaml").write_text(json.dumps(content), encoding="utf-8")
    done = snakemake(folder, "--configfile", "braces.yaml")
    assert done.returncode == 0, done.stdout[-3000:]
    assert content["description"] in (folder / "results/braces/report.html").read_text(encoding="utf-8")
    assert stale_of(folder, "braces.yaml") == []


def stale_of(folder: Path, config: str):
    return planned(folder, "--configfile", config)


def test_an_experiment_longer_than_an_argument_reaches_its_scripts(repository):
    """Linux takes 128 KiB an argument; this experiment has 1,500 variants."""
    content = {
        "experiment": "long",
        "datasets": {"d": {"source": "digits", "image_size": 8}},
        "pairs": [{"teachers": ["resnet14"], "student": "resnet8"}],
        "methods": [{"method": "kd", "name": f"kd_{k}", "temperature": 1 + k / 1000} for k in range(1500)],
        "seeds": [0],
        "recipe": {"epochs": 1, "precision": "fp32"},
    }
    (repository / "long.yaml").write_text(json.dumps(content), encoding="utf-8")
    done = snakemake(repository, "--configfile", "long.yaml", "--config", "allow_missing=true")
    assert done.returncode == 0, done.stdout[-3000:]
    assert len((repository / "results/long/runs.csv").read_text(encoding="utf-8").splitlines()) == 1 + 1 + 1500
    assert (repository / "results/long/report.html").is_file()

"""Methods trained side by side end as if each had been trained alone, interrupted or not."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from told import told

from kd.analysis.collect import row_of
from kd.analysis.rows import PlannedRun
from kd.engine.jobs import students
from kd.engine.jobs.student import train_student
from kd.engine.jobs.students import train_students
from kd.engine.jobs.workbench import prepare
from kd.engine.teachers import FrozenForward
from kd.study.digests import SCRIPTS
from kd.study.job_settings import parse_settings
from kd.study.jobs import Jobs
from kd.study.jobs.reports import rows
from kd.tools.errors import DivergenceError
from kd.tools.files import read_json, write_json

METHODS = ["kd", {"method": "crd", "negatives": 32}, "hint", {"method": "hint", "two_stage": True, "hint_epochs": 1}]


class Interrupted(Exception):
    pass


@pytest.fixture
def worlds(world):
    return [world(method) for method in METHODS]


def files_of(worlds, name):
    return [here.files(f"{name}/{number}") for number, here in enumerate(worlds)]


def together(worlds, name, on_epoch=lambda row: None):
    return train_students([here.job() for here in worlds], files_of(worlds, name), on_epoch)


def stop_at(count, train):
    """Interrupt a training when it has told of so many epochs."""
    told = []

    def stop(row):
        told.append(row)
        if len(told) == count:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(stop)


def assert_equal_runs(worlds, first, second):
    for number, here in enumerate(worlds):
        for kept in ("best", "last"):
            a, b = (
                load_file(here.folder / name / str(number) / "checkpoints" / f"{kept}.safetensors")
                for name in (first, second)
            )
            assert all(torch.equal(a[key], b[key]) for key in a), f"method {number}, {kept}"


def test_each_run_ends_bit_identical_to_a_run_alone(worlds):
    results = together(worlds, "together")
    for here, files in zip(worlds, files_of(worlds, "alone"), strict=True):
        train_student(here.job(), files, lambda row: None)
    assert_equal_runs(worlds, "together", "alone")
    alone = [here.folder / "alone" / str(number) / "run.json" for number, here in enumerate(worlds)]
    flops = [read_json(path)["flops"]["train"] for path in alone]
    assert [result.flops for result in results] == pytest.approx(flops)


def test_seeds_side_by_side_end_as_alone_and_share_images_and_teachers(world, monkeypatch):
    """Each has its own order of images; one of two methods is interrupted in the middle of the group."""
    kd, hint = world("kd"), world("hint")
    jobs = [here.job().model_copy(update={"seed": seed}) for seed in (0, 5) for here in (kd, hint)]
    together_in, alone_in = ([kd.files(f"{name}/{number}") for number in range(4)] for name in ("together", "alone"))
    stop_at(5, lambda on_epoch: train_students(jobs, together_in, on_epoch))
    benches = []
    monkeypatch.setattr(students, "prepare", lambda *given: benches.append(prepare(*given)) or benches[-1])
    train_students(jobs, together_in, lambda row: None)
    first, *others = benches
    assert all(bench.data is first.data for bench in others)
    assert all(bench.team.models["teacher0"] is first.team.models["teacher0"] for bench in others)
    for job, files in zip(jobs, alone_in, strict=True):
        train_student(job, files, lambda row: None)
    assert_equal_runs([kd] * 4, "together", "alone")
    weights = [load_file(files.folder / "checkpoints" / "last.safetensors") for files in alone_in]
    assert not all(torch.equal(value, weights[2][key]) for key, value in weights[0].items()), "seeds differ"


@pytest.mark.parametrize("epochs_told", [1, 3, 6])
def test_an_interrupted_group_ends_bit_identical(worlds, epochs_told):
    """The interruption falls between two methods' ends of an epoch, so that some are ahead when they go on."""
    together(worlds, "whole")
    stop_at(epochs_told, lambda on_epoch: together(worlds, "broken", on_epoch))
    together(worlds, "broken")
    assert_equal_runs(worlds, "whole", "broken")


def test_teachers_run_once_for_all(worlds, monkeypatch):
    calls, files = [], files_of(worlds, "together")  # the teachers are trained here, before anything is counted
    original = FrozenForward._outputs
    monkeypatch.setattr(FrozenForward, "_outputs", lambda self, *rest: calls.append(1) or original(self, *rest))
    results = train_students([here.job() for here in worlds], files, lambda row: None)
    steps = -(-160 // parse_settings(told(worlds[0].plan, "train_student", worlds[0].run)).recipe.batch_size)
    longest = max(len(result.rows) for result in results)
    assert len(calls) == steps * longest


def test_a_training_that_diverges_ends_alone(world, tmp_path):
    """The others end as they do without it; its folder says why, and holds the weights that it began with."""
    methods = [{"method": "kd", "recipe": {"lr": 1e30}}, "kd", {"method": "crd", "negatives": 32}]
    group = [world(method) for method in methods]
    outcomes = together(group, "group")
    assert isinstance(outcomes[0], DivergenceError)
    assert "loss" in str(outcomes[0])
    together(group[1:], "others")
    for number, here in enumerate(group[1:]):
        for kept in ("best", "last"):
            first = load_file(here.folder / "group" / str(number + 1) / "checkpoints" / f"{kept}.safetensors")
            second = load_file(here.folder / "others" / str(number) / "checkpoints" / f"{kept}.safetensors")
            assert all(torch.equal(first[key], second[key]) for key in first)
    failed = group[0].folder / "group" / "0"
    record = read_json(failed / "run.json")
    assert record["status"] == "failed"
    assert record["reason"] == str(outcomes[0])
    weights = load_file(failed / "checkpoints" / "last.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert (failed / "metrics.csv").exists()
    alone = {"teacher_paths": [], "prestage_paths": [], "taught_by": [], "made": {"steps": [], "before": []}}
    planned = PlannedRun(**{**rows(Jobs(group[0].plan))[0], "path": str(failed), **alone})
    assert row_of(planned, {}).status == "missing", "a run that diverged has nothing to evaluate"


def test_a_group_that_diverges_as_a_whole_is_an_error(world):
    group = [world({"method": name, "recipe": {"lr": 1e30}}) for name in ("kd", "ce")]
    with pytest.raises(DivergenceError, match="diverged"):
        together(group, "group")


def test_the_script_leaves_a_log_in_the_folder_of_each_run_and_does_without_the_compiler(worlds):
    script = SCRIPTS / "train_students.py"
    pairs = list(zip(worlds[:2], files_of(worlds[:2], "script"), strict=True))
    runs = [
        {
            **{"settings": told(here.plan, "train_student", here.run), "code": "test", "folder": str(files.folder)},
            **{"record": str(files.folder / "made" / "train_student.json"), "identity": "asked"},
            **{"outputs": [], "pretrained": [], "tuned": []},
        }
        for here, files in pairs
    ]
    teachers = [str(path) for path in pairs[0][1].teachers]
    listed = pairs[0][1].folder.parent / "runs.json"
    write_json(listed, runs)
    arguments = ["--runs", str(listed), "--data", str(worlds[0].packed), "--teachers", *teachers]
    command = [sys.executable, "-X", "importtime", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="backslashreplace", check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines(keepends=True)
    imports = [line for line in lines if line.startswith("import time:")]
    assert [line for line in imports if "torch._C" in line], "the imports are listed"
    assert [line for line in imports if "torch._dynamo" in line or "torch._inductor" in line] == []
    logged = "".join(line for line in lines if line not in imports)
    for _, files in pairs:
        assert (files.folder / "run.json").exists()
        assert read_json(files.folder / "made" / "train_student.json")["identity"] == "asked"
        assert (files.folder / "train.log").read_text(encoding="utf-8") == logged

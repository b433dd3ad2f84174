"""What an edit makes stale, seen in the dry run of a finished experiment: that and what follows, nothing else."""

import csv
import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from checkout import environment, planned, snakemake

from kd.tools.files import read_json

# one worker: the other one would wait for the run that they share
pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("staleness")]

CONFIG = "tests/workflow/tiny.yaml"
RESULTS = {"collect", "details", "networks", "statistics", "tables", "figures", "page", "sink"}
LIBRARY = "workflow_scripts/kd"


def edit(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{name} holds no {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def reconfigure(folder: Path, change) -> None:
    path = folder / CONFIG
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def one_data_set(content) -> dict:
    return {"datasets": {"first": content["datasets"]["first"]}}


def stale(folder: Path):
    return planned(folder, "--configfile", CONFIG)


def runs(jobs) -> set[tuple[str, str]]:
    """Rule and method of the stale jobs that belong to a run."""
    return {(job.rule, job.wildcards["method"]) for job in jobs if "method" in job.wildcards}


def others(jobs) -> set[str]:
    """Rules of the stale jobs that belong to no run; test_check.py says when the check is one of them."""
    return {job.rule for job in jobs if "method" not in job.wildcards} - {"check_pairs"}


def test_a_finished_experiment_has_nothing_to_do(tiny_run):
    assert stale(tiny_run) == []


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (f"{LIBRARY}/methods/crd.py", '"""', '# a remark\n"""'),
        (f"{LIBRARY}/engine/training.py", '"""One loop', '"""The one loop'),
        ("workflow_scripts/train_student.py", '"""Train one student', '# a remark\n"""Train a single student'),
        (f"{LIBRARY}/console/progress.py", "LINES = 10", "LINES = 20"),
        (f"{LIBRARY}/methods/hint.py", "class ", "UNUSED_HERE = 1\n\n\nclass "),
        (f"{LIBRARY}/engine/jobs/teacher_outputs.py", '"sent %d', '"asked about %d'),
        (f"{LIBRARY}/record/provenance.py", '"device": device.type,', '"device": device.type, "more": 1,'),
        (f"{LIBRARY}/record/epochs.py", "{value:.6g}", "{value:.7g}"),
        (f"{LIBRARY}/engine/plateau.py", "class ", "UNUSED_HERE = 1\n\n\nclass "),
    ],
    ids=[
        *("comment", "docstring", "script comment", "progress bar", "method not in the experiment"),
        *("log line", "field of a record", "digits of metrics.csv", "schedule not in the experiment"),
    ],
)
def test_what_cannot_change_a_result_reruns_nothing(tiny_copy, file, old, new):
    edit(tiny_copy, file, old, new)
    assert stale(tiny_copy) == []


def test_touching_every_source_reruns_nothing(tiny_copy):
    for path in [*tiny_copy.glob("workflow_scripts/**/*.py"), *tiny_copy.glob("config/**/*.yaml")]:
        path.touch()
    assert stale(tiny_copy) == []


def test_a_sink_more_is_all_that_is_made_for_it(tiny_copy):
    reconfigure(tiny_copy, lambda content: content["report"]["sinks"].append("wandb"))
    assert [(job.rule, job.wildcards) for job in stale(tiny_copy)] == [("sink", {"sink": "wandb"})]
    reconfigure(tiny_copy, lambda content: content["report"].update(sinks=[]))
    assert stale(tiny_copy) == []


def test_sinks_hold_every_run(tiny_run):
    folder = tiny_run / "results" / "tiny" / "sinks"
    with (tiny_run / "results" / "tiny" / "runs.csv").open(encoding="utf-8") as file:
        paths = {row["path"] for row in csv.DictReader(file)}
    written = read_json(folder / "tensorboard" / "index.json")["runs"]
    assert written.keys() == paths
    assert all((folder / "tensorboard" / "runs" / place).is_file() for place in written.values())
    summary = read_json(folder / "results_list" / "experiment_summary.json")
    assert summary["pairs"].keys() == {"first/resnet14+wrn_16_1--resnet8", "second/resnet14+wrn_16_1--resnet8"}


def test_one_methods_loss_reruns_that_method_and_what_follows(tiny_copy):
    edit(tiny_copy, f"{LIBRARY}/methods/crd.py", "class ", "EDITED = 1\n\n\nclass ")
    jobs = stale(tiny_copy)
    assert runs(jobs) == {("train_student", "crd"), ("evaluate", "crd")}
    assert others(jobs) == RESULTS


def test_a_pre_stage_is_rerun_with_its_method(tiny_copy):
    edit(tiny_copy, f"{LIBRARY}/methods/ft.py", "class ", "EDITED = 1\n\n\nclass ")
    jobs = stale(tiny_copy)
    assert runs(jobs) == {(rule, "ft") for rule in ("pretrain_method", "train_student", "evaluate")}
    assert others(jobs) == RESULTS


def test_asib_code_reruns_chains_only(tiny_copy):
    edit(tiny_copy, f"{LIBRARY}/asib/losses.py", "\n\n\ndef ", "\n\n\nEDITED = 1\n\n\ndef ")
    jobs = stale(tiny_copy)
    rules = ("asib_teacher_update", "asib_student_update", "asib_result", "evaluate")
    assert runs(jobs) == {(rule, "asib") for rule in rules}
    assert others(jobs) == RESULTS


@pytest.mark.parametrize(
    ("key", "values"),
    [("teacher_lr", [5e-3, 2e-3]), ("tau_start", [4.0, 2.0]), ("ce_alpha", [0.3, 0.5])],
)
def test_a_stages_settings_rerun_that_stage_and_what_follows(tiny_copy, key, values):
    reconfigure(tiny_copy, lambda content: content["methods"][4].__setitem__(key, values))
    jobs = stale(tiny_copy)
    rules = {"asib_teacher_update", "asib_student_update", "asib_result", "evaluate"}
    of_students = key == "ce_alpha"
    assert runs(jobs) == {(rule, "asib") for rule in rules - ({"asib_teacher_update"} if of_students else set())}
    assert {job.wildcards["stage"] for job in jobs if "stage" in job.wildcards} == {"2"}
    assert others(jobs) == RESULTS


def test_evaluation_modes_read_what_is_there(tiny_copy):
    planned_jobs = planned(tiny_copy, "single", "synergy", "--configfile", CONFIG)
    counts = Counter(job.rule for job in planned_jobs)
    assert (counts["evaluate_single"], counts["evaluate_synergy"]) == (10, 2)
    folder = tiny_copy / "results/tiny/first/resnet14+wrn_16_1--resnet8/asib/seed0"
    targets = [str(folder.relative_to(tiny_copy) / name) for name in ("single.json", "synergy.json")]
    done = snakemake(tiny_copy, *targets, "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout[-3000:]
    synergy, single = read_json(folder / "synergy.json"), read_json(folder / "single.json")
    assert set(synergy) == set(single) - {"weights"} == {"train", "val", "test"}
    assert {"student", "teacher0", "teacher1", "synergy", "ib_kl", "disagreement_pred"} <= set(synergy["test"])
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert single["test"]["top1"] == pytest.approx(evaluation["best"]["test_top1"], abs=1e-6)
    teacher = json.loads(
        (tiny_copy / "results/tiny/first/teachers/wrn_16_1/seed0/evaluation.json").read_text(encoding="utf-8")
    )
    assert synergy["test"]["synergy"] > 10
    assert teacher["best"]["test_top1"] > 10
    halves = (folder / "half_stages.csv").read_text(encoding="utf-8").splitlines()
    assert len(halves) == 1 + 4
    assert "val/ib_kl" in halves[0]


def test_another_checkpoint_may_be_evaluated(tiny_copy):
    folder = "results/tiny/first/resnet14--resnet8/kd/seed0"
    other = "results/tiny/first/none--resnet8/ce/seed0"
    path = f"{other}/checkpoints/last.safetensors"
    done = snakemake(tiny_copy, f"{folder}/single.json", "--configfile", CONFIG, "--config", f"ckpt_path={path}")
    assert done.returncode == 0, done.stdout[-3000:]
    found = json.loads((tiny_copy / folder / "single.json").read_text(encoding="utf-8"))
    expected = json.loads((tiny_copy / other / "evaluation.json").read_text(encoding="utf-8"))
    assert found["test"]["top1"] == pytest.approx(expected["last"]["test_top1"], abs=1e-6)


def test_engine_code_reruns_every_training(tiny_copy):
    edit(tiny_copy, f"{LIBRARY}/engine/optim.py", "\n\n\ndef ", "\n\n\nEDITED = 1\n\n\ndef ")
    jobs = stale(tiny_copy)
    assert {"train_teacher", "train_student", "asib_teacher_update", "pretrain_method"} <= {job.rule for job in jobs}
    assert "prepare_data" not in {job.rule for job in jobs}


def test_what_methods_may_ask_for_reruns_every_training(tiny_copy):
    edit(tiny_copy, f"{LIBRARY}/data/wants.py", '"balanced"] = "random"', '"balanced"] = "balanced"')
    rules = {job.rule for job in stale(tiny_copy)}
    assert {"train_teacher", "train_student", "asib_teacher_update", "pretrain_method"} <= rules
    assert not rules & {"prepare_data", "tune"}


def test_one_hyper_parameter_reruns_that_method(tiny_copy):
    reconfigure(tiny_copy, lambda content: content["methods"].__setitem__(1, {"method": "kd", "temperature": 2.0}))
    jobs = stale(tiny_copy)
    assert runs(jobs) == {("train_student", "kd"), ("evaluate", "kd")}
    assert others(jobs) == RESULTS


def test_swapping_two_values_is_seen(tiny_copy):
    """Snakemake compares params as a set of values: 0.1 and 0.9 exchanged would look the same, were they several."""
    swapped = {"method": "kd", "ce_weight": 0.9, "kd_weight": 0.1}
    reconfigure(tiny_copy, lambda content: content["methods"].__setitem__(1, swapped))
    assert ("train_student", "kd") in runs(stale(tiny_copy))


def test_one_data_sets_option_reruns_that_data_set(tiny_copy):
    reconfigure(tiny_copy, lambda content: content["datasets"]["second"].__setitem__("subset_size", 290))
    jobs = stale(tiny_copy)
    assert {job.wildcards["dataset"] for job in jobs if "dataset" in job.wildcards} == {"second"}
    assert "prepare_data" not in {job.rule for job in jobs}, "what acts at load time packs nothing anew"
    assert {"train_teacher", "train_student"} <= {job.rule for job in jobs}


def test_a_packing_option_packs_anew(tiny_copy):
    reconfigure(tiny_copy, lambda content: content["datasets"]["second"].__setitem__("split_seed", 1))
    jobs = stale(tiny_copy)
    assert {job.wildcards["dataset"] for job in jobs if "dataset" in job.wildcards} == {"second"}
    assert "prepare_data" in {job.rule for job in jobs}


def test_the_tables_code_reruns_tables_only(tiny_copy):
    edit(tiny_copy, f"{LIBRARY}/reporting/tables.py", "\n\n\ndef ", "\n\n\nEDITED = 1\n\n\ndef ")
    assert {job.rule for job in stale(tiny_copy)} == {"tables"}


def test_an_added_method_runs_alone(tiny_copy):
    reconfigure(tiny_copy, lambda content: content["methods"].append("at"))
    jobs = stale(tiny_copy)
    assert runs(jobs) == {("train_student", "at"), ("evaluate", "at")}


def test_an_added_seed_leaves_the_finished_one(tiny_copy):
    reconfigure(tiny_copy, lambda content: content["seeds"].append(1))
    jobs = stale(tiny_copy)
    assert {job.wildcards["seed"] for job in jobs if "seed" in job.wildcards} == {"1"}


def test_a_failed_run_is_a_row_with_its_reason(tiny_copy):
    """A run that diverges ends with status 1 and one sentence; --keep-going and allow_missing tell the rest."""
    diverging = {"method": "kd", "name": "kd_hot", "recipe": {"lr": 100.0, "epochs": 3}}
    reconfigure(tiny_copy, lambda content: content.update(methods=["kd", diverging], **one_data_set(content)))
    done = snakemake(tiny_copy, "--configfile", CONFIG, "--keep-going")
    assert done.returncode != 0
    assert "training diverged: loss" in done.stdout
    assert "Traceback" not in done.stdout.split("training diverged")[0][-500:]
    arguments = ("--configfile", CONFIG, "--config", "allow_missing=true")
    done = snakemake(tiny_copy, *arguments)
    assert done.returncode == 0, done.stdout[-3000:]
    table = (tiny_copy / "results/tiny/tables/comparison.md").read_text(encoding="utf-8")
    assert "kd_hot" in table
    assert "training diverged" in table
    rows = [
        line
        for line in (tiny_copy / "results/tiny/runs.csv").read_text(encoding="utf-8").splitlines()
        if ",kd_hot," in line
    ]
    assert len(rows) == 1
    assert ",failed," in rows[0]


def test_a_killed_run_goes_on_where_it_was(tiny_copy):
    """Snakemake and its job are killed in the middle of a training; the same command finishes it."""
    long = {"method": "kd", "name": "kd_long", "recipe": {"epochs": 30}}
    reconfigure(tiny_copy, lambda content: content.update(methods=["kd", long], **one_data_set(content)))
    folder = tiny_copy / "results/tiny/first/resnet14--resnet8/kd_long/seed0"
    target = str(folder.relative_to(tiny_copy) / "run.json")  # before --configfile, which takes every word after it
    command = ["snakemake", "--cores", "1", target, "--configfile", CONFIG]
    with (tiny_copy / "killed.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=tiny_copy, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while not (folder / "resume.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert (folder / "resume.pt").exists(), (tiny_copy / "killed.log").read_text(encoding="utf-8")[-2000:]
    assert not (folder / "run.json").exists()
    snakemake(tiny_copy, "--unlock", "--configfile", CONFIG)
    done = snakemake(tiny_copy, target, "--rerun-incomplete", "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "resuming stage 'train' after epoch" in (folder / "train.log").read_text(encoding="utf-8")
    assert not (folder / "resume.pt").exists()

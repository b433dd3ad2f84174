"""What does not fit is told before anything is trained, and a check that is made again trains nothing again."""

import pytest
import yaml
from checkout import planned, snakemake

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("staleness")]

CONFIG = "tests/workflow/tiny.yaml"
RESULTS = {"collect", "details", "networks", "statistics", "tables", "figures", "page", "sink"}
MISFIT = {
    "experiment": "misfit",
    "datasets": {"digits": {"source": "digits", "image_size": 16, "subset_size": 200, "validation": 0.2}},
    "models": {
        "teacher_net": {"arch": "timm:resnet18", "pretrained": False, "small_input": True},
        "student_net": {"arch": "resnet8x4"},
    },
    "pairs": [{"teachers": ["teacher_net"], "student": "student_net"}],
    "methods": ["ce", "kd", "at", "reviewkd", "ofd", "vid", "fsp"],
    "seeds": [0],
    "recipe": {"epochs": 1, "batch_size": 32},
}


def stale(folder) -> set[tuple[str, str | None]]:
    """Rule and method of the stale jobs but those that make tables and figures."""
    jobs = planned(folder, "--configfile", CONFIG)
    return {(job.rule, job.wildcards.get("method")) for job in jobs if job.rule not in RESULTS}


def test_misfits_stop_the_experiment_before_its_first_training(repository):
    (repository / "misfit.yaml").write_text(yaml.safe_dump(MISFIT), encoding="utf-8")
    done = snakemake(repository, "--configfile", "misfit.yaml", "--keep-going")
    assert done.returncode != 0
    assert "rule train_teacher:" not in done.stdout
    assert not (repository / "results/misfit/digits/teachers").exists()
    assert not (repository / "results/misfit/checked.json").exists()
    last = done.stdout.strip().splitlines()[-12:]
    for method in ("at", "reviewkd", "ofd", "vid", "fsp"):
        sentence = f"ERROR methods.{method}, teacher_net -> student_net: {method} compares taps one to one"
        assert any(sentence in line for line in last), method
    assert "5 of 8 trainings cannot be made, and none was begun" in done.stdout
    assert "Traceback" not in done.stdout
    assert {"train_teacher", "check_pairs"} <= {job.rule for job in planned(repository, "--configfile", "misfit.yaml")}


def test_a_method_that_is_added_is_checked_and_retrains_nothing(tiny_copy):
    path = tiny_copy / CONFIG
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["methods"].append("hint")
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert stale(tiny_copy) == {("check_pairs", None), ("train_student", "hint"), ("evaluate", "hint")}


def test_an_edited_method_and_the_check_are_stale_and_no_other(tiny_copy):
    path = tiny_copy / "workflow_scripts/kd/methods/crd.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("class ", "EDITED = 1\n\n\nclass ", 1), encoding="utf-8")
    assert stale(tiny_copy) == {("check_pairs", None), ("train_student", "crd"), ("evaluate", "crd")}


def test_an_edited_or_lost_check_is_made_when_something_is_to_be_trained(tiny_copy):
    path = tiny_copy / "workflow_scripts/kd/engine/rehearsal.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("ITEMS = 4", "ITEMS = 5", 1), encoding="utf-8")
    (tiny_copy / "results/tiny/checked.json").unlink()
    assert stale(tiny_copy) == set()

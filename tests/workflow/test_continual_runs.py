"""Class-incremental runs through Snakemake: from the images to the table, and what an edit makes stale."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from checkout import environment, planned, run_once
from dry_run import snakemake_without_jobs

# one worker: the other one would wait for the run that they share
pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("continual")]

CONFIG = "tests/workflow/continual.yaml"
RESULTS = "results/continual_tiny"


@pytest.fixture(scope="session")
def continual_run(tmp_path_factory) -> Path:
    """A copy of the repository in which the tiny class-incremental experiment has been run."""
    return run_once(tmp_path_factory, "continual", "--configfile", CONFIG)


def test_the_table_holds_every_run(continual_run):
    with (continual_run / RESULTS / "tables/continual.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["strategy"], row["seed"], row["status"]) for row in rows] == [
        (name, seed, "ok") for name in ("finetune", "everything") for seed in "01"
    ]
    finals = {
        name: [float(row["final"]) for row in rows if row["strategy"] == name] for name in ("finetune", "everything")
    }
    assert min(finals["everything"]) > max(finals["finetune"]), "rehearsal is worth something on digits"
    assert (continual_run / RESULTS / "figures/digits/continual/accuracy_matrices.png").stat().st_size > 5000


def test_a_run_leaves_its_record_and_nothing_unfinished(continual_run):
    folder = continual_run / RESULTS / "digits/continual/resnet8/everything/seed1"
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "ok"
    assert record["tasks"][1]["kept_of_each_class"] == [8] * 5
    matrix = json.loads((folder / "matrix.json").read_text(encoding="utf-8"))
    assert matrix["class_order"] == record["tasks"][0]["classes"] + record["tasks"][1]["classes"]
    assert not list(folder.rglob("*.pt"))


def test_an_edit_of_ewc_reruns_class_incremental_runs_only(continual_run):
    assert planned(continual_run, "--configfile", CONFIG) == []
    path = continual_run / "workflow_scripts/kd/continual/ewc.py"
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(text.replace("model.eval()", "model.train(False)", 1), encoding="utf-8")
        stale = planned(continual_run, "--configfile", CONFIG)
    finally:
        path.write_text(text, encoding="utf-8")
    assert {job.rule for job in stale} == {"check_pairs", "continual_run", "continual_matrix", "continual_report"}


def test_targets_of_a_chain_are_planned(repository):
    content = yaml.safe_load((repository / CONFIG).read_text(encoding="utf-8"))
    content["pairs"] = [{"teachers": ["resnet14", "wrn_16_1"], "student": "resnet8"}]
    content["methods"] = [{"method": "asib", "num_stages": 1}]
    content["continual"]["strategies"] = [{"name": "taught", "targets": "asib"}]
    (repository / "chain.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    rules = [job.rule for job in planned(repository, "--configfile", "chain.yaml")]
    assert rules.count("synergy_outputs") == rules.count("continual_run") == 2
    assert {"asib_student_update", "tables", "continual_report", "page"} <= set(rules)


def test_a_mistake_is_told_before_any_job(repository):
    content = yaml.safe_load((repository / CONFIG).read_text(encoding="utf-8"))
    content["continual"]["strategies"][0]["ewc_images"] = 10
    (repository / "wrong.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    done = snakemake_without_jobs(repository, "-n", "--configfile", "wrong.yaml", environment=environment())
    assert done.returncode != 0
    assert "ewc_images of finetune does nothing without ewc_weight" in done.stdout

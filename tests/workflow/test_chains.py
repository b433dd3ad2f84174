"""Chains of runs, and runs of one job, through Snakemake: from a finished experiment to what an edit makes stale."""

import csv
import shutil
from pathlib import Path

import pytest
import yaml
from checkout import planned, run_once

# one worker: the other one would wait for the run that they share
pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("chains")]

CONFIG = "tests/workflow/chains.yaml"
RESULTS = {"collect", "details", "networks", "statistics", "tables", "figures", "page"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A copy of the repository in which both chains have been run."""
    return run_once(tmp_path_factory, "chains", "--configfile", CONFIG)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of `finished` that a test may edit; modification times are kept."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


CHAINS = ("ce", {"method": "born_again", "generations": 2}, {"method": "takd", "assistants": ["resnet14"]})


def stale(folder: Path, *methods, together=("kd", "at")) -> set[tuple[str, str]]:
    """Rule and method of what a dry run would do with these methods; all of the results must follow from it."""
    path = folder / CONFIG
    path.write_text(
        yaml.safe_dump({**yaml.safe_load(path.read_text(encoding="utf-8")), "methods": [*methods, *together]}),
        encoding="utf-8",
    )
    jobs = planned(folder, "--configfile", CONFIG)
    assert {job.rule for job in jobs if "method" not in job.wildcards} - {"train_students", "check_pairs"} == RESULTS
    return {(job.rule, job.wildcards["method"]) for job in jobs if "method" in job.wildcards}


def trained(*names: str) -> set[tuple[str, str]]:
    return {(rule, name) for rule in ("train_student", "evaluate") for name in names}


def test_both_chains_reach_the_tables_with_the_cost_of_their_links(finished):
    assert planned(finished, "--configfile", CONFIG) == []
    with (finished / "results/links/tables/comparison.csv").open(encoding="utf-8") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    roles = {name: row["role"] for name, row in rows.items()}
    assert roles == {
        **{"teacher": "teacher", "ce": "student", "born_again": "student", "takd": "student"},
        **{"kd": "student", "at": "student"},
        **{"born_again.gen1": "link", "takd.hop1": "link"},
    }
    flops = {name: float(row["train_flops"]) for name, row in rows.items()}
    total = {name: float(row["total_flops"]) for name, row in rows.items()}
    assert total["born_again"] == flops["ce"] + flops["born_again.gen1"] + flops["born_again"]
    assert total["takd"] == flops["teacher"] + flops["takd.hop1"] + flops["takd"]
    assert rows["takd.hop1"]["student"] == "resnet14"
    page = (finished / "results/links/tables/comparison.md").read_text(encoding="utf-8")
    assert "the mean of all its generations' probabilities reaches" in page


def test_a_setting_of_generation_two_reruns_it_and_what_follows(copied):
    edited = {"method": "born_again", "generations": 2, "temperature": [1.0, 3.0]}
    assert stale(copied, "ce", edited, {"method": "takd", "assistants": ["resnet14"]}) == trained("born_again.gen2")


def test_another_generation_is_trained_alone(copied):
    more = {"method": "born_again", "generations": 3}
    jobs = stale(copied, "ce", more, {"method": "takd", "assistants": ["resnet14"]})
    # what was the last generation is evaluated again, for it no longer tells what the ensemble reaches
    assert jobs == trained("born_again.gen3") | {("evaluate", "born_again.gen2")}


def test_another_origin_or_assistant_reruns_its_own_chain(copied):
    longer = {"method": "ce", "recipe": {"epochs": 2}}
    kept = {"method": "takd", "assistants": ["resnet14"]}
    jobs = stale(copied, longer, {"method": "born_again", "generations": 2}, kept)
    assert jobs == trained("ce", "born_again.gen1", "born_again.gen2")
    jobs = stale(copied, "ce", {"method": "born_again", "generations": 2}, {**kept, "assistants": ["resnet20"]})
    assert jobs == trained("takd.hop1", "takd")


def test_students_of_one_job_leave_what_a_run_leaves(finished):
    logs = finished / "results/links/logs"
    assert [path.name for path in (logs / "train_students").iterdir()] == ["digits_wrn_16_1--resnet8_seed0.log"]
    assert not [path for name in ("kd", "at") for path in (logs / "train_student").glob(f"*_{name}_*")]
    for name in ("kd", "at"):
        folder = finished / f"results/links/digits/wrn_16_1--resnet8/{name}/seed0"
        assert {"train.log", "run.json", "metrics.csv", "evaluation.json"} <= {path.name for path in folder.iterdir()}


def test_a_setting_of_one_reruns_the_job_and_what_it_trains(copied):
    jobs = stale(copied, *CHAINS, together=("kd", {"method": "at", "at_weight": 10.0}))
    assert jobs == {("evaluate", "kd"), ("evaluate", "at")}
    assert [job.rule for job in planned(copied, "--configfile", CONFIG) if job.rule.startswith("train")] == [
        "train_students"
    ]

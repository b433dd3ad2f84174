"""A search through Snakemake: from trials to the tables, and to what an edit makes stale."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from checkout import planned, run_once

# one worker: the other one would wait for the run that they share
pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("search")]

CONFIG = "tests/workflow/search.yaml"
HOME = "results/found"
TEACHERS = {"check_pairs", "train_teacher", "evaluate_teacher"}
RESULTS = {"collect", "details", "networks", "statistics", "trials", "tables", "figures", "page"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A copy of the repository in which the search has been run."""
    return run_once(tmp_path_factory, "search", "--configfile", CONFIG)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of `finished` that a test may edit; modification times are kept."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / HOME / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stale(folder: Path, search=None, **changes) -> set[tuple[str, str, str]]:
    """Rule, method and seed of what a dry run would do with another search; all of the results must follow from it."""
    path = folder / CONFIG
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content = {**content, **changes, "search": {**content["search"], **(search or {})}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    jobs = planned(folder, "--configfile", CONFIG)
    assert {job.rule for job in jobs if "method" not in job.wildcards} - TEACHERS <= RESULTS
    return {(job.rule, job.wildcards["method"], job.wildcards["seed"]) for job in jobs if "method" in job.wildcards}


def searched(*names: str) -> set[tuple[str, str, str]]:
    """What is made again where a search chooses anew."""
    rows = {(rule, f"{name}_searched", "0") for rule in ("train_student", "evaluate") for name in names}
    return rows | {("choose", f"{name}_searched", "9") for name in names}


def test_the_search_reaches_the_tables_and_nothing_is_left_to_do(finished):
    assert planned(finished, "--configfile", CONFIG) == []
    trials = table(finished, "trials.csv")
    # of 1e30, 0.02 and 0.01 the draws of seed 9 for recipe.lr, 0.056 and 0.476, are the first and the second
    assert [(row["method"], row["trial"], float(row["recipe.lr"]), row["status"]) for row in trials] == [
        ("ce", "1", 0.05, "ok"),
        ("ce", "2", 1e30, "failed"),
        ("ce", "3", 0.02, "ok"),
        ("kd", "1", 0.05, "ok"),
        ("kd", "2", 1e30, "failed"),
        ("kd", "3", 0.02, "ok"),
    ]
    assert all(("diverged" in row["reason"]) == (row["status"] == "failed") for row in trials)
    rows = {row["method"]: row for row in table(finished, "tables/search.csv")}
    for method in ("ce", "kd"):
        own = [row for row in trials if row["method"] == method]
        (chosen,) = (row for row in own if row["chosen"] == "yes")
        best = max(float(row["val_top1_best"]) for row in own if row["val_top1_best"])
        assert float(chosen["val_top1_best"]) == best == float(rows[method]["validation_chosen"])
        assert chosen["trial"] == rows[method]["trial"]
        assert rows[method]["trials_finished"] == "2"
    assert {row["ft" if "ft" in row else "kd.kd_weight"] for row in trials if row["method"] == "ce"} == {""}
    answer = (finished / HOME / "tables" / "answer.md").read_text(encoding="utf-8")
    assert "A search of 3 trials for each method on validation" in answer
    assert "As written, and searched" in (finished / HOME / "report.html").read_text(encoding="utf-8")
    log = (finished / "run.log").read_text(encoding="utf-8")
    assert "A search of 3 trials for each method on validation" in log, "the terminal has the answer too"


def test_trials_see_no_test_image_and_rows_are_trained_with_what_was_chosen(finished):
    home = finished / HOME / "digits"
    tried = sorted(home.glob("*/*_searched.trial*/seed9"))
    assert len(tried) == 6
    for folder in tried:
        assert not list(folder.rglob("evaluation.json")) + list(folder.rglob("*.safetensors"))
    for team, method in (("none--resnet8", "ce"), ("wrn_16_1--resnet8", "kd")):
        choice = json.loads((home / team / f"{method}_searched/seed9/choice.json").read_text(encoding="utf-8"))
        row = json.loads((home / team / f"{method}_searched/seed0/run.json").read_text(encoding="utf-8"))
        assert row["settings"]["method"] == choice["method"]
        assert row["settings"]["recipe"]["lr"] == choice["drawn"]["recipe.lr"]
        assert row["settings"]["seed"] == row["settings"]["split_seed"] == 0


def test_what_the_search_took_stands_in_its_row(finished):
    rows = {row["method"]: row for row in table(finished, "tables/comparison.csv")}
    for method in ("ce", "kd"):
        spent = sum(float(row["train_flops"]) for row in table(finished, "trials.csv") if row["method"] == method)
        # seed 9 has a teacher of its own, which was trained for the trials alone
        teacher = float(rows["teacher"]["train_flops"]) if method == "kd" else 0.0
        assert float(rows[method]["pretrain_flops"]) == 0
        assert float(rows[f"{method}_searched"]["pretrain_flops"]) == pytest.approx(spent + teacher)


def test_more_trials_train_those_alone_and_choose_anew(copied):
    more = {("train_trial", f"{name}_searched.trial4", "9") for name in ("ce", "kd")}
    assert stale(copied, {"trials": 4}) == more | searched("ce", "kd")


def test_another_range_reruns_the_trials_that_draw_from_it(copied):
    ranges = {"kd": {"temperature": {"log": [2, 3]}}}
    jobs = stale(copied, {"ranges": ranges})
    assert jobs == {("train_trial", f"kd_searched.trial{k}", "9") for k in (2, 3)} | searched("kd")


def test_another_seed_of_the_runs_searches_nothing_again(copied):
    jobs = stale(copied, seeds=[0, 1])
    assert {job[0] for job in jobs if job[2] == "9"} == set()
    assert {job[1] for job in jobs if job[0] == "train_student"} == {"ce", "ce_searched", "kd", "kd_searched"}


def test_the_rows_as_written_stay_where_the_search_goes(copied):
    path = copied / CONFIG
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    del content["search"]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    jobs = {job.rule for job in planned(copied, "--configfile", CONFIG)}
    assert jobs == RESULTS - {"trials"}

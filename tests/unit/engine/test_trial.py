"""Trials of a search: a training of which numbers are kept, and what their settings make of a student."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file
from told import told

from kd.engine.jobs.chosen import as_chosen
from kd.engine.jobs.files import Files
from kd.engine.jobs.student import train_student
from kd.engine.jobs.trial import train_trial
from kd.study.job_settings import parse_settings
from kd.tools.errors import UserError
from kd.tools.files import write_json


def tried(here, folder="trial") -> dict:
    """Train the settings of a world's run as a trial, and return its record."""
    train_trial(here.job(), here.files(folder), lambda row: None)
    return json.loads((here.folder / folder / "run.json").read_text(encoding="utf-8"))


def epochs(folder) -> list[dict]:
    """The rows of metrics.csv without what no two trainings have in common."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_a_trial_is_the_training_that_a_student_has_and_keeps_numbers_only(world):
    here = world("kd")
    record = tried(here)
    here.train("alone")
    own, alone = (here.folder / name for name in ("trial", "alone"))
    assert epochs(own) == epochs(alone)
    assert not (own / "checkpoints").exists()
    trained = json.loads((alone / "run.json").read_text(encoding="utf-8"))
    assert {key: record[key] for key in ("status", "flops", "best_epoch", "epochs", "validation")} == {
        key: trained[key] for key in ("status", "flops", "best_epoch", "epochs", "validation")
    }


def test_it_says_what_the_best_and_the_last_epoch_reached(world):
    here = world("kd", recipe={"epochs": 4, "lr": 0.3})
    record = tried(here)
    reached = [float(row["val_top1"]) for row in epochs(here.folder / "trial")]
    assert record["selected"]["best"] == pytest.approx(max(reached), abs=1e-3)
    assert record["selected"]["last"] == pytest.approx(reached[-1], abs=1e-3)


def test_a_trial_that_diverges_is_a_result_with_its_reason_and_its_cost(world):
    here = world({"method": "kd", "recipe": {"lr": 1e30}})
    record = tried(here)
    assert record["status"] == "failed"
    assert "diverged" in record["reason"]
    assert record["selected"] == {}
    assert record["flops"]["train"] > 0


def test_what_says_nothing_of_the_settings_ends_the_job(world):
    here = world("kd")
    weights = here.folder / "teacher.safetensors"
    weights.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"teacher\.safetensors"):
        train_trial(here.job(), Files(here.packed, here.folder / "trial", teachers=[weights]), lambda row: None)
    assert not (here.folder / "trial" / "run.json").exists()


def test_a_student_is_trained_with_the_chosen_settings_as_if_they_were_written(world):
    """The choice of a search, and the same settings in the experiment file, make the same weights."""
    here = world("kd")
    written = world({"method": "kd", "temperature": 2.0, "kd_weight": 3.0, "recipe": {"lr": 0.02}})
    (part,) = written.job().method
    choice = here.folder / "choice.json"
    write_json(choice, {"trial": 5, "method": [part.model_dump(mode="json")], "recipe": {"lr": 0.02}})
    job = as_chosen(here.job(), choice)
    assert job == written.job()
    train_student(job, here.files("chosen"), lambda row: None)
    written.train("written")
    found, expected = (
        load_file(folder / "checkpoints" / "last.safetensors")
        for folder in (here.folder / "chosen", written.folder / "written")
    )
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("content", [{"trial": 1, "recipe": {}}, {"trial": 1, "method": 3, "recipe": {}}])
def test_a_damaged_choice_is_told(world, content):
    here = world("kd")
    choice = here.folder / "choice.json"
    write_json(choice, content)
    with pytest.raises(UserError, match=r"choice\.json is damaged: delete it and run again"):
        as_chosen(here.job(), choice)


def test_settings_of_a_search_are_those_that_its_jobs_are_told(world):
    here = world("kd", search={"trials": 3})
    (search,) = here.plan.searches.runs
    trials = [parse_settings(told(here.plan, "train_trial", one)) for one in here.plan.searches.trials(search)]
    assert trials[0].method == here.job().method
    assert len({job.recipe.lr for job in trials}) == 3

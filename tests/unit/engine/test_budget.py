"""Controls train for the operations that other runs took, and are otherwise the trainings that they would be alone."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from told import told

from kd.engine.jobs.budget import most_expensive, stretched, within_budget
from kd.engine.jobs.files import Files
from kd.engine.jobs.student import train_student
from kd.schema.config import Recipe
from kd.study.job_settings import parse_settings
from kd.tools.errors import UserError

METHODS = {
    "two views": "mlkd",
    "stages": {"method": "hint", "two_stage": True, "hint_epochs": 2},
    "pre-stage": {"method": "ft", "paraphraser_epochs": 2},
    "peers": "dml",
    "pairs of images": "cs_kd",
    "no teacher": "tf_kd",
}


def control_of(here, name="run"):
    """Return the settings of the control, its files, and the records that it reads."""
    method, control = here.plan.runs
    records = [here.folder / name / "run.json"]
    if here.plan.variants[method.method].pretrain:
        records.append(here.folder / "pretrain" / "run.json")
    weights = [here.teacher(teacher) for teacher in control.teachers]
    job = parse_settings(told(here.plan, "train_student", control))
    files = Files(here.packed, here.folder / "control", teachers=weights, budget=records, code="test")
    return job, files


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_control_takes_what_its_method_took_to_half_an_epoch(world, method):
    entry = {"method": method} if isinstance(method, str) else method
    here = world({**entry, "matched": True}, recipe={"epochs": 3})
    here.train("run")
    job, files = control_of(here)
    spent = sum(json.loads(record.read_text(encoding="utf-8"))["flops"]["train"] for record in files.budget)
    given = within_budget(job, files)
    result = train_student(given, files, lambda row: None)
    epoch = result.flops / given.recipe.epochs
    assert abs(result.flops - spent) <= max(epoch / 2, epoch * (given.recipe.epochs == 1))
    record = json.loads((files.folder / "run.json").read_text(encoding="utf-8"))
    told_ = record["settings"]["budget"]
    assert (told_["flops"], told_["recipe_epochs"]) == (spent, 3)
    assert record["epochs"] == given.recipe.epochs == record["settings"]["recipe"]["epochs"]


def test_looking_what_an_epoch_takes_changes_nothing_of_the_training(world):
    """The control of a method of kd's compute is the training that kd would be."""
    here = world({"method": "kd_logit_std", "kd_weight": 0.9, "temperature": 4.0, "matched": True})
    here.train("run")
    job, files = control_of(here)
    given = within_budget(job, files)
    assert given.recipe == job.recipe
    train_student(given, files, lambda row: None)
    alone = world("kd")
    alone.train("alone")
    found, expected = (
        load_file(folder / "checkpoints" / "last.safetensors") for folder in (files.folder, alone.folder / "alone")
    )
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_teachers_that_are_asked_once_cost_once(world):
    still = {"epochs": 4, "augmentation": {"crop": "none", "flip": False}}
    here = world({"method": "dkd", "matched": True}, recipe=still)
    here.train("run")
    given = within_budget(*control_of(here))
    assert given.recipe.epochs == 4


def write(folder, **record):
    folder.mkdir()
    path = folder / "run.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def test_what_was_made_for_the_control_is_taken_from_what_its_method_took(world, tmp_path):
    here = world({"method": "dkd", "matched": True}, recipe={"epochs": 4})
    here.train("run")
    job, files = control_of(here)
    (record,) = files.budget
    spent = json.loads(record.read_text(encoding="utf-8"))["flops"]["train"]
    assert job.budget is not None
    own = write(tmp_path / "outputs", flops={"train": spent / 2})
    asked = job.model_copy(update={"budget": job.budget.model_copy(update={"own": 1})})
    assert within_budget(asked, replace(files, budget=[record, own])).recipe.epochs == 2


def test_the_most_expensive_row_counts_with_all_that_was_made_for_it(tmp_path):
    records = [write(tmp_path / str(k), flops={"train": cost}) for k, cost in enumerate((5.0, 3.0, 4.0, 6.0))]
    assert most_expensive([1, 2, 1], records) == 7.0


def test_a_run_that_failed_has_no_compute_to_match(tmp_path):
    records = [write(tmp_path / "dkd", status="failed", reason="it diverged", flops={"train": 5.0})]
    with pytest.raises(UserError, match="dkd failed, so there is no compute to match: it diverged"):
        most_expensive([1], records)
    with pytest.raises(UserError, match="does not say how many operations"):
        most_expensive([1], [write(tmp_path / "other", flops={})])


def test_a_recipe_of_other_epochs_has_the_same_shape():
    recipe = Recipe(
        epochs=10, schedule="step", milestones=[0.25, 5.0, 7.0, 20.0], warmup_epochs=2.0, ema_warmup_epochs=5.0
    )
    longer = stretched(recipe, 25)
    assert longer.milestones == [0.25, 0.5, 0.7, 50.0]
    assert (longer.epochs, longer.warmup_epochs, longer.ema_warmup_epochs) == (25, 5.0, 12.5)
    shorter = stretched(recipe, 1)
    assert shorter.milestones == [0.25, 0.5, 0.7, 20.0]
    assert (shorter.epochs, shorter.warmup_epochs) == (1, 0.2)
    assert stretched(recipe, 10) is recipe


def test_a_control_that_was_interrupted_ends_as_it_would_have(world):
    class Interrupted(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Interrupted

    here = world({"method": "dml", "matched": True}, recipe={"epochs": 3})
    here.train("run")
    job, files = control_of(here)
    train_student(within_budget(job, files), files, lambda row: None)
    broken = replace(files, folder=here.folder / "broken")
    with pytest.raises(Interrupted):
        train_student(within_budget(job, broken), broken, stop)
    train_student(within_budget(job, broken), broken, lambda row: None)
    found, expected = (load_file(one.folder / "checkpoints" / "last.safetensors") for one in (broken, files))
    assert all(torch.equal(found[key], value) for key, value in expected.items())

"""What a card counts in epochs of its recipe lasts as large a share of a training of another length."""

import json

import pytest

from kd.schema.cards import load_cards
from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.plan import Plan

OWN = """
name: slow_kd
title: A method of one's own
family: logits
paper: {title: None, authors: A. Nobody, year: 2026}
loss: "L = CE"
module: slow.py
teachers: one
settings:
  ce_weight: {type: float, default: 1.0, doc: Weight.}
  rise: {type: float, default: 30.0, epochs: {of: ramp, recipe: 300}, doc: Epochs.}
  wait: {type: int, default: 30, epochs: {of: ramp}, doc: A length of its own.}
"""


def jobs_of(*methods, epochs=12, **recipe) -> Jobs:
    content = {
        "experiment": "unit",
        "datasets": {"digits": {"source": "digits"}},
        "pairs": [{"teachers": ["resnet20"], "student": "resnet8"}],
        "methods": list(methods),
        "seeds": [0],
        "recipe": {"epochs": epochs, **recipe},
    }
    return Jobs(Plan(check_experiment(content)))


def told(jobs: Jobs, rule: str = "train_student") -> dict:
    (run,) = [run for run in jobs.plan.runs if run.method != "ce"]
    job = jobs.training(run)
    if rule != "train_student":
        (job,) = [before for before in job.after if before.rule == rule]
    return json.loads(job.settings)


def length(jobs: Jobs, key: str, **which):
    values = [part["settings"][key] for part in told(jobs, **which)["method"] if key in part["settings"]]
    assert len(values) == 1
    return values[0]


TWO_STAGES = {"method": "hint", "two_stage": True}
SCALED = {
    "dkd": ("dkd", "warmup_epochs", 20, 1, 8),
    "reviewkd": ("reviewkd", "warmup_epochs", 20.0, 1.0, 100 * 20 / 240),
    "ctkd": ("ctkd", "ramp_epochs", 10, 1, 4),
    "hint": (TWO_STAGES, "hint_epochs", 30, 2, 13),
    "ab": ("ab", "init_epochs", 30, 2, 13),
    "fsp": ("fsp", "init_epochs", 30, 2, 13),
    "ft": ("ft", "paraphraser_epochs", 30, 2, 13),
    "combined": ({"name": "both", "combine": ["dkd", "at"]}, "warmup_epochs", 20, 1, 8),
    "given": ({"method": "dkd", "warmup_epochs": 60}, "warmup_epochs", 60, 3, 25),
    "none": ({"method": "reviewkd", "warmup_epochs": 0.0}, "warmup_epochs", 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize(("method", "key", "plain", "of_12", "of_100"), SCALED.values(), ids=SCALED.keys())
def test_lengths_are_shares_of_the_training(method, key, plain, of_12, of_100):
    """Whole epochs are rounded, halves up, and never to nothing."""
    assert length(jobs_of(method), key) == plain
    assert length(jobs_of(method, schedule_epochs=240), key) == of_12
    assert length(jobs_of(method, epochs=100, schedule_epochs=240), key) == pytest.approx(of_100)
    assert length(jobs_of(method, epochs=240, schedule_epochs=240), key) == plain


def test_a_schedule_of_other_epochs_and_a_methods_own_recipe_count():
    assert length(jobs_of("dkd", schedule_epochs=120), "warmup_epochs") == 2
    own = {"method": "dkd", "recipe": {"epochs": 48}}
    assert length(jobs_of(own, schedule_epochs=240), "warmup_epochs") == 4
    off = {"method": "dkd", "recipe": {"schedule_epochs": None}}
    assert length(jobs_of(off, schedule_epochs=240), "warmup_epochs") == 20


def test_a_pre_stage_has_the_epochs_that_are_scaled_for_it():
    jobs = jobs_of("ft", schedule_epochs=240)
    assert length(jobs, "paraphraser_epochs", rule="pretrain_method") == 2


def test_a_card_of_another_recipe_is_scaled_from_that_and_its_own_lengths_stay(tmp_path):
    path = tmp_path / "slow.yaml"
    path.write_text(OWN, encoding="utf-8")
    (tmp_path / "slow.py").write_text("class Slow: ...\n", encoding="utf-8")
    jobs = jobs_of({"card": str(path)}, epochs=10, schedule_epochs=240)
    assert length(jobs, "rise") == pytest.approx(1.0)
    assert length(jobs, "wait") == 30


def test_only_jobs_with_a_scaled_length_are_others_with_it():
    """The recipe that a job is told is the same: what is scaled stands in its method's settings."""
    methods = [name for name, card in load_cards().items() if card.links == "none" and card.teachers != "many"]
    alone = [name for name in methods if load_cards()[name].alone]
    plain, scaled = jobs_of(*alone), jobs_of(*alone, schedule_epochs=240)
    changed = {run.method for run in plain.plan.runs if plain.training(run).settings != scaled.training(run).settings}
    counted = {
        name for name in alone if any(one.epochs and one.epochs.recipe for one in load_cards()[name].settings.values())
    }
    # those of hint's first stage and of sdd's other base are off
    assert changed == counted - {"hint", "sdd"}

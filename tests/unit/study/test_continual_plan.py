"""The section `continual` of an experiment file: what it plans, what it makes stale, what it refuses."""

import copy
import json

import pytest
from told import told

from kd.study.experiment import check_experiment
from kd.study.jobs.continual import target_run, taught
from kd.study.plan import Plan
from kd.tools.errors import UserError

BASE = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "continual": {
        "student": "resnet8",
        "num_tasks": 5,
        "strategies": [{"name": "finetune"}, {"name": "replay", "replay_capacity": 100}],
    },
    "seeds": [0, 1],
    "recipe": {"epochs": 4},
}
TEACHERS = {"pairs": [{"teachers": ["resnet14", "wrn_16_1"], "student": "resnet8"}], "methods": ["ce", "asib"]}


def plan(*strategies, **changes):
    content = copy.deepcopy({**BASE, **changes})
    if strategies:
        content["continual"]["strategies"] = list(strategies)
    return Plan(check_experiment(content))


def test_runs_are_strategies_by_seeds():
    found = plan()
    assert [run.path for run in found.continual.runs] == [
        f"digits/continual/resnet8/{name}/seed{seed}" for name in ("finetune", "replay") for seed in (0, 1)
    ]
    assert found.runs == found.teachers == found.groups == []


def test_an_experiment_without_the_section_has_no_such_runs():
    content = {key: value for key, value in BASE.items() if key != "continual"}
    found = Plan(check_experiment({**content, **TEACHERS}))
    assert found.continual.runs == []
    assert len(found.runs) == 4


def test_another_strategy_leaves_a_runs_job_alone():
    before, after = plan(), plan({"name": "finetune"}, {"name": "replay", "replay_capacity": 50})
    runs = before.continual.runs
    assert [told(before, "continual_run", run) == told(after, "continual_run", run) for run in runs] == [
        True,
        True,
        False,
        False,
    ]


def test_the_evaluation_does_not_depend_on_the_strategy():
    found = plan()
    first, _, third, _ = found.continual.runs
    assert told(found, "continual_matrix", first) == told(found, "continual_matrix", third)


def test_a_strategys_recipe_is_merged():
    found = plan({"name": "slow", "recipe": {"lr": 0.01}})
    job = json.loads(told(found, "continual_run", found.continual.runs[0]))
    assert (job["recipe"]["lr"], job["recipe"]["epochs"]) == (0.01, 4)


def test_a_chain_gives_targets_of_the_same_seed():
    found = plan({"name": "taught", "targets": "asib"}, **TEACHERS)
    run = found.continual.runs[1]
    chain = target_run(found, run)
    assert (chain.method, chain.seed, chain.teachers) == ("asib", 1, ("resnet14", "wrn_16_1"))
    assert json.loads(told(found, "synergy_outputs", chain))["half"] == "student_update"
    assert taught(found, run).teachers == ()


def test_a_teacher_is_trained_only_where_a_strategy_asks_for_it():
    section = {**BASE["continual"], "teacher": "resnet20"}
    assert plan(continual=section).continual.teachers == []
    assert plan({"name": "taught", "targets": "teacher"}, continual=section).continual.teachers == ["resnet20"]


def test_a_teacher_that_no_strategy_asks_for_is_told():
    section = {**BASE["continual"], "teacher": "resnet20"}
    said = "continual.teacher 'resnet20' does nothing: no strategy has targets: teacher"
    assert plan(continual=section).continual.idle == [said]
    assert plan({"name": "taught", "targets": "teacher"}, continual=section).continual.idle == []
    assert plan().continual.idle == []


def test_a_strategys_recipe_is_checked_like_any_other():
    for recipe, said in [
        ({"batch_size": 64_000}, r"strategies\[0\].recipe.batch_size: there are at most 1797"),
        ({"augmentation": {"cutout": 17}}, r"strategies\[0\].recipe.augmentation.cutout: must be at most"),
        ({"betas": [0.5, 0.5]}, r"strategies\[0\].recipe.betas: does nothing with optimizer sgd"),
    ]:
        with pytest.raises(UserError, match=said):
            plan({"name": "x", "recipe": recipe})


def test_strategies_that_some_file_systems_take_for_one_are_told():
    with pytest.raises(UserError, match="'replay' and 'Replay' differ in capitals only"):
        plan({"name": "replay"}, {"name": "Replay"})
    with pytest.raises(UserError, match="some file systems cannot hold a file of the name 'nul'"):
        plan({"name": "nul"})
    with pytest.raises(UserError, match="too long together for the name of a file"):
        plan(
            {"name": "x" * 100},
            datasets={"d" * 100: {"source": "digits"}},
            models={"s" * 50: {"arch": "resnet8"}},
            continual={**BASE["continual"], "student": "s" * 50},
        )


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ({"replay_ratio": 0.5}, "replay_ratio of x does nothing without replay_capacity, found 0.5"),
        ({"balance_epochs": 2}, "balance_epochs of x does nothing without replay_capacity"),
        ({"ewc_images": 100}, "ewc_images of x does nothing without ewc_weight"),
        ({"prev_kd_temperature": 2.0}, "does nothing without prev_kd_weight"),
        ({"target_weight": 2.0}, "does nothing without targets"),
        ({"ewc_wieght": 1.0}, r"'ewc_wieght': did you mean 'ewc_weight'\?"),
        ({"ewc_weight": -1.0}, "ewc_weight: .*a number from 0 to 1000000000, found -1.0"),
        ({"ce_classes": "all"}, "ce_classes: .*'seen' or 'current', found 'all'"),
        ({"targets": "teacher"}, "targets of x is 'teacher', but continual.teacher names none"),
        ({"targets": "kd"}, "unknown continual.strategies: targets of x"),
        ({"recipe": {"track_test": True}}, "track_test true would read the test split in every epoch"),
        ({"recipe": {"schedule": "plateau", "patience": 2}}, "plateau selects on validation images of earlier tasks"),
        ({"recipe": {"teacher_view": "fixed"}}, "teacher_view fixed is not defined for tasks"),
        ({"recipe": {"epoch": 1}}, r"unknown key in continual.strategies\[0\].recipe 'epoch': did you mean 'epochs'\?"),
        ({"ce_classes": "current", "recipe": {"mixup_alpha": 0.2}}, "ce_classes current is not defined for MixUp"),
    ],
)
def test_mistakes_are_told_in_one_sentence(strategy, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        plan({"name": "x", **strategy})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_tasks": 1}, "continual.num_tasks: .*a whole number from 2 to 1000, found 1"),
        ({"student": "resnet9"}, "unknown architecture 'resnet9': did you mean"),
        ({"class_order": [0, 0, 1]}, "lists every label from 0 once"),
        ({"class_order": "random"}, "continual.class_order"),
        ({"strategies": []}, "continual.strategies"),
        ({"strategies": [{"name": "a"}, {"name": "a"}]}, "two are named 'a'"),
        ({"tasks": 5}, r"unknown key in continual 'tasks'"),
    ],
)
def test_mistakes_of_the_section_are_told(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        plan(continual={**BASE["continual"], **changes})


@pytest.mark.parametrize("absent", ["pairs", "methods"])
def test_pairs_and_methods_stand_together(absent):
    content = {**BASE, **{key: value for key, value in TEACHERS.items() if key != absent}}
    with pytest.raises(UserError, match=f"{absent} must list at least one"):
        check_experiment(content)


def test_an_experiment_needs_some_runs():
    with pytest.raises(UserError, match="pairs must list at least one"):
        check_experiment({key: value for key, value in BASE.items() if key != "continual"})

"""What is checked before the first training: every training that differs in more than its seed, each of them once."""

import json

import pytest
from told import told

from kd.study.checks import parse_checks
from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.plan import Plan

BASE = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet20", "wrn_16_1"], "student": "resnet8"}],
    "methods": ["ce", "kd"],
    "seeds": [0, 1, 2],
    "recipe": {"epochs": 4},
}


def plan_of(**changes):
    return Plan(check_experiment({**BASE, **changes}))


def checks_of(**changes):
    return parse_checks(json.loads(told(plan_of(**changes), "check_pairs")))


def names(checks):
    return [f"{check.name}{f' ({check.part})' if check.part else ''}" for check in checks]


def test_teachers_first_then_students_once_for_all_seeds():
    checks = checks_of()
    assert names(checks) == [
        "teacher resnet20",
        "teacher wrn_16_1",
        "methods.ce, resnet8",
        "methods.kd, resnet20 -> resnet8",
    ]
    assert [check.taught_by for check in checks] == [[], [], [], [0]]
    assert {tuple(check.seeds) for check in checks} == {(0, 1, 2)}


def test_a_fixed_teacher_seed_is_the_one_split():
    assert {tuple(check.seeds) for check in checks_of(teacher_seed=5)} == {(5,)}


def test_pre_stages_and_half_stages_are_parts_of_a_training():
    checks = checks_of(methods=["ft", {"method": "asib", "num_stages": 2}])
    assert names(checks)[2:] == [
        "methods.ft, resnet20 -> resnet8 (pre-stage)",
        "methods.ft, resnet20 -> resnet8",
        "methods.asib, resnet20+wrn_16_1 -> resnet8 (stage 1 teacher_update)",
        "methods.asib, resnet20+wrn_16_1 -> resnet8 (stage 1 student_update)",
        "methods.asib, resnet20+wrn_16_1 -> resnet8 (stage 2 teacher_update)",
        "methods.asib, resnet20+wrn_16_1 -> resnet8 (stage 2 student_update)",
    ]


def test_links_are_taught_by_the_link_before():
    methods = ["ce", {"method": "born_again", "generations": 2}, {"method": "takd", "assistants": ["resnet14"]}]
    checks = checks_of(methods=methods)
    taught = {check.name: [checks[place].name for place in check.taught_by] for check in checks}
    assert taught == {
        "teacher resnet20": [],
        "teacher wrn_16_1": [],
        "methods.ce, resnet8": [],
        "methods.born_again.gen1, resnet8 -> resnet8": ["methods.ce, resnet8"],
        "methods.born_again.gen2, resnet8 -> resnet8": ["methods.born_again.gen1, resnet8 -> resnet8"],
        "methods.takd.hop1, resnet20 -> resnet14": ["teacher resnet20"],
        "methods.takd, resnet14 -> resnet8": ["methods.takd.hop1, resnet20 -> resnet14"],
    }


def test_teachers_of_another_data_set_are_told_apart():
    datasets = {"all": {"source": "digits"}, "few": {"source": "digits", "subset_size": 100}}
    checks = checks_of(datasets=datasets, teacher_dataset="all", methods=["kd"])
    assert names(checks) == [
        "teacher resnet20, data set all",
        "teacher wrn_16_1, data set all",
        "methods.kd, resnet20 -> resnet8, data set few",
    ]
    assert checks[2].taught_by == [0]


def test_continual_runs_are_checked():
    section = {"student": "resnet8", "teacher": "resnet14", "num_tasks": 5}
    section["strategies"] = [{"name": "plain"}, {"name": "taught", "targets": "teacher"}]
    checks = checks_of(continual=section)
    assert names(checks)[-3:] == [
        "continual.strategies plain, resnet8",
        "teacher resnet14",
        "continual.strategies taught, resnet8",
    ]
    assert checks[-1].taught_by == [len(checks) - 2]
    assert checks[-1].job().strategy.targets == "teacher"


@pytest.mark.parametrize("changes", [{"seeds": [0, 1, 2], "description": "another"}, {"report": {"confidence": 0.9}}])
def test_what_changes_no_training_changes_no_check(changes):
    assert told(plan_of(**changes), "check_pairs") == told(plan_of(), "check_pairs")


def test_a_method_more_is_a_check_more():
    assert told(plan_of(methods=["ce", "kd", "hint"]), "check_pairs") != told(plan_of(), "check_pairs")


def test_the_code_of_every_method_and_network_counts():
    codes = {Jobs(plan_of(**changes)).of("check_pairs").code for changes in ({}, {"methods": ["ce", "kd", "hint"]})}
    pairs = [{"teachers": ["vgg13", "wrn_16_1"], "student": "resnet8"}]
    codes.add(Jobs(plan_of(pairs=pairs)).of("check_pairs").code)
    assert len(codes) == 3


def test_hundreds_of_variants_take_no_time_and_no_argument_of_a_command():
    methods = [{"method": "kd", "name": f"kd_{k}", "temperature": 1.0 + k / 100} for k in range(300)]
    checks = checks_of(methods=methods)
    assert len(checks) == 302

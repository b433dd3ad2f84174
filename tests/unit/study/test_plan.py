"""The plan knows runs and groups, and leaves jobs to kd.study.jobs."""

import inspect

import pytest

from kd.schema.config import ModelSettings
from kd.study.experiment import check_experiment
from kd.study.plan import Plan
from kd.study.runs import Run, Taught, Teacher

BASE = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet20", "wrn_16_1"], "student": "resnet8"}],
    "methods": ["ce", "kd"],
    "seeds": [0, 3],
    "recipe": {"epochs": 4},
}
MANY = {"full": {"source": "digits"}, "few": {"source": "digits", "subset_size": 300}}


def plan_of(*methods, **changes) -> Plan:
    return Plan(check_experiment({**BASE, "methods": list(methods) or BASE["methods"], **changes}))


def test_the_plan_stays_small():
    own = [name for name, value in vars(Plan).items() if inspect.isfunction(value) or hasattr(value, "__get__")]
    methods = [name for name in own if name not in {"__dict__", "__weakref__"}]
    assert len(methods) <= 25, methods
    assert len(inspect.getsource(inspect.getmodule(Plan)).splitlines()) <= 210


def taught(plan: Plan, method: str) -> Taught:
    (run,) = [run for run in plan.runs if (run.method, run.seed) == (method, 3)]
    return plan.taught(run)


def first(**changes) -> Teacher:
    return Teacher(**{"network": "resnet20", "dataset": "digits", "seed": 3, **changes})


def before(team: str, student: str, method: str) -> Teacher:
    run = Run("digits", tuple(team.split("+")) if team else (), student, method, 3)
    return Teacher(student, "digits", 3, run)


LINKS = ("ce", {"method": "takd", "assistants": ["resnet14"]}, {"method": "born_again", "generations": 2})


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ce", Taught("resnet8")),
        ("takd.hop1", Taught("resnet14", (first(),))),
        ("takd", Taught("resnet8", (before("resnet20", "resnet14", "takd.hop1"),))),
        ("born_again.gen1", Taught("resnet8", (before("", "resnet8", "ce"),))),
        ("born_again.gen2", Taught("resnet8", (before("", "resnet8", "born_again.gen1"),))),
    ],
)
def test_a_link_is_taught_by_the_one_before_it(method, expected):
    assert taught(plan_of(*LINKS), method) == expected


def test_a_method_is_taught_by_one_teacher_of_the_pair_or_by_all():
    plan = plan_of("kd", {"method": "kd", "name": "other", "teacher": "wrn_16_1"}, "asib", recipe={"epochs": 6})
    assert taught(plan, "kd").teachers == (first(),)
    assert taught(plan, "other").teachers == (first(network="wrn_16_1"),)
    assert taught(plan, "asib").teachers == (first(), first(network="wrn_16_1"))
    assert taught(plan, "asib").networks == ("resnet8", "resnet20", "wrn_16_1")


def test_a_teacher_may_have_another_data_set_and_seed():
    plan = plan_of("kd", datasets=MANY, teacher_dataset="full", teacher_seed=7)
    assert taught(plan, "kd").teachers == (first(dataset="full", seed=7),)
    assert plan.place(first(dataset="full", seed=7)) == "results/unit/full/teachers/resnet20/seed7"
    assert plan.teachers == [first(network=name, dataset="full", seed=7) for name in ("resnet20", "wrn_16_1")]


def test_a_finished_network_teaches_like_any_other():
    finished = ModelSettings(arch="resnet20", pretrained="weights.safetensors", train=False)
    plan = plan_of("kd", models={"resnet20": finished.model_dump(exclude_unset=True)})
    assert taught(plan, "kd").teachers == (first(),)


def test_networks_of_one_architecture_are_measured_once():
    models = {"mine": {"arch": "resnet8"}, "yours": {"arch": "resnet8", "recipe": {"lr": 0.01}}}
    pairs = [{"teachers": ["resnet20"], "student": name} for name in ("mine", "yours")]
    continual = {"student": "mine", "teacher": "resnet32", "num_tasks": 2}
    continual["strategies"] = [{"name": "taught", "targets": "teacher"}]
    plan = plan_of("kd", models=models, pairs=pairs, continual=continual)
    assert plan.built_as == {"resnet20": "resnet20", "mine": "mine", "yours": "mine", "resnet32": "resnet32"}

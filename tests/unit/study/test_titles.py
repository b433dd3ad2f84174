"""What jobs are called, and how long they train."""

from types import SimpleNamespace

import pytest

from kd.engine.resolve import build_method, stages_of_job
from kd.schema.cards import card, card_names
from kd.schema.config import ModelSettings, Recipe
from kd.study.experiment import check_experiment
from kd.study.job_settings import JobSettings, MethodPart
from kd.study.jobs import RULES, Jobs
from kd.study.plan import Plan
from kd.study.titles import REPORTS, TITLES, epochs_of, epochs_told

CONTENT = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "models": {"big": {"arch": "resnet20"}},
    "pairs": [{"teachers": ["big", "wrn_16_1"], "student": "resnet8"}],
    "methods": [
        "ce",
        {"method": "kd", "name": "kd_t2", "temperature": 2.0},
        {"method": "ft", "paraphraser_epochs": 3},
        {"method": "hint", "two_stage": True, "hint_epochs": 4},
        {"method": "born_again", "generations": 2},
        {"method": "asib", "num_stages": 2, "teacher_adapt_epochs": 5, "student_epochs": [6, 7]},
        {"method": "kd", "name": "kd_t8", "temperature": 8.0},
    ],
    "continual": {
        "student": "resnet8",
        "teacher": "big",
        "num_tasks": 2,
        "strategies": [{"name": "live", "targets": "teacher"}],
    },
    "seeds": [3, 4],
    "co_train": ["kd_t2", "kd_t8"],
    "recipe": {"epochs": 12},
}


@pytest.fixture(scope="module")
def jobs() -> Jobs:
    return Jobs(Plan(check_experiment(CONTENT)))


def run(jobs: Jobs, method: str):
    return next(one for one in jobs.plan.runs if one.method == method and one.seed == 4)


RUNS = [
    ("train_student", "ce", (), "ce: no teacher -> resnet8, seed 4", 12),
    ("train_student", "kd_t2", (), "kd_t2: big -> resnet8, seed 4", 12),
    ("train_students", "kd_t2", (), "kd_t2, kd_t8 side by side: big -> resnet8, seed 4", 24),
    ("train_student", "hint", (), "hint: big -> resnet8, seed 4", 16),
    ("train_student", "ft", (), "ft: big -> resnet8, seed 4", 12),
    ("train_student", "born_again.gen1", (), "born_again.gen1: resnet8 of ce -> resnet8, seed 4", 12),
    (
        *("train_student", "born_again.gen2", ()),
        *("born_again.gen2: resnet8 of born_again.gen1 -> resnet8, seed 4", 12),
    ),
    (
        *("asib_teacher_update", "asib", (2,)),
        *("asib: big + wrn_16_1 -> resnet8, seed 4, stage 2 teacher update", 5),
    ),
    (
        *("asib_student_update", "asib", (2,)),
        *("asib: big + wrn_16_1 -> resnet8, seed 4, stage 2 student update", 7),
    ),
    (
        *("asib_predictions", "asib", (1, "teacher_update")),
        *("predictions of asib: big + wrn_16_1 -> resnet8, seed 4, stage 1 teacher update", None),
    ),
    ("evaluate", "kd_t2", (), "test of kd_t2: big -> resnet8, seed 4", None),
]


@pytest.mark.parametrize(
    ("rule", "method", "more", "title", "epochs"), RUNS, ids=[f"{one[0]} {one[1]}" for one in RUNS]
)
def test_a_run_is_called_by_variant_and_by_who_teaches_whom(jobs, rule, method, more, title, epochs):
    job = jobs.of(rule, run(jobs, method), *more)
    assert job.title == title
    assert epochs_of(job) == epochs


def test_jobs_of_no_run_say_what_they_are(jobs):
    assert jobs.of("train_teacher", "digits", "big", 3).title == "teacher big, seed 3"
    assert jobs.of("evaluate_teacher", "digits", "big", 3).title == "test of teacher big, seed 3"
    pre_stage = jobs.of("pretrain_method", "digits", "big", "ft", 3)
    assert (pre_stage.title, epochs_of(pre_stage)) == ("pre-stage of ft: big, seed 3", 3)
    continual = jobs.of("continual_run", jobs.plan.continual.runs[0])
    assert (continual.title, epochs_of(continual)) == ("continual live: big -> resnet8, seed 3", 24)
    assert jobs.of("tables").title == "the tables"


def test_every_rule_has_words_for_its_jobs():
    # the jobs of students side by side are named by those
    assert set(RULES) - {"train_students"} == set(TITLES) | set(REPORTS)


def test_data_sets_are_told_where_there_are_several():
    content = {**CONTENT, "datasets": {"digits": {"source": "digits"}, "more": {"source": "cifar10", "root": "data"}}}
    jobs = Jobs(Plan(check_experiment({key: value for key, value in content.items() if key != "continual"})))
    assert jobs.of("train_student", run(jobs, "ce")).title == "ce: no teacher -> resnet8 on digits, seed 4"


@pytest.mark.parametrize("name", [name for name in card_names() if card(name).alone])
@pytest.mark.parametrize("pre_stage", [False, True])
def test_epochs_are_counted_as_the_engine_counts_them(name, pre_stage):
    one = card(name)
    if one.chain or (pre_stage and not one.pretrain):
        return
    settings = one.resolve({"two_stage": True} if "two_stage" in one.settings else {}, name).model_dump(mode="json")
    teachers = [ModelSettings(arch="resnet14")] * {"none": 0, "one": 1, "many": 2}[one.teachers]
    job = JobSettings(
        dataset={},
        student=None if pre_stage else ModelSettings(arch="resnet8"),
        teachers=teachers,
        method=[MethodPart(card=name, settings=settings)],
        recipe=Recipe(epochs=12),
        seed=0,
        split_seed=0,
    )
    stages = stages_of_job(job, build_method(job.method, len(teachers)))
    assert epochs_told(job.model_dump(mode="json")) == sum(stage.recipe.get("epochs", 12) for stage in stages)


def test_what_is_used_as_it_is_trains_no_epoch():
    told = {"student": {"train": False}, "recipe": {"epochs": 12}}
    assert epochs_told(told) == 0
    assert epochs_of(SimpleNamespace(parts=(), rule="tables", settings="{}")) is None

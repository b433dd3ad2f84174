"""Which runs read the teachers' outputs on the fixed view, where these are, and what they depend on."""

import json

import pytest
from told import told

from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.jobs.images import data_folder
from kd.study.jobs.reports import rows
from kd.study.jobs.teachers import prepared
from kd.study.plan import Plan
from kd.study.resources import work_together
from kd.tools.errors import UserError

BASE = {
    "experiment": "unit",
    "datasets": {
        "few": {"source": "digits", "subset_size": 300},
        "fewer": {"source": "digits", "subset_size": 200},
        "small": {"source": "digits", "image_size": 8},
    },
    "pairs": [{"teachers": ["resnet14", "wrn_16_1"], "student": "resnet8"}],
    "methods": ["ce", "kd", "ckd"],
    "seeds": [0, 3],
    "recipe": {"epochs": 4},
}
FIXED = {"epochs": 4, "teacher_view": "fixed"}
HOME = "results/unit/few/teacher_outputs"


def plan_of(**changes):
    return Plan(check_experiment({**BASE, **changes}))


def outputs_of(plan, run):
    return [job.folder for job in prepared(Jobs(plan), run)[1]]


def run_of(plan, method, seed=0):
    return next(run for run in plan.runs if (run.dataset, run.method, run.seed) == ("few", method, seed))


@pytest.mark.parametrize(
    ("recipe", "method", "folders"),
    [
        (BASE["recipe"], "ce", []),
        (BASE["recipe"], "kd", []),
        (BASE["recipe"], "ckd", [f"{HOME}/resnet14/seed3"]),
        (FIXED, "ce", []),
        (FIXED, "kd", [f"{HOME}/resnet14/seed3"]),
        (FIXED, "ckd", [f"{HOME}/resnet14/seed3"]),
    ],
)
def test_runs_read_outputs_where_the_card_or_the_recipe_fixes_the_view(recipe, method, folders):
    plan = plan_of(recipe=recipe)
    assert outputs_of(plan, run_of(plan, method, seed=3)) == folders


def test_one_variant_may_fix_the_view_and_another_take_the_second_teacher():
    fixed = {"method": "kd", "name": "kd_fixed", "recipe": {"teacher_view": "fixed"}}
    other = {"method": "ckd", "name": "ckd_wrn", "teacher": "wrn_16_1"}
    plan = plan_of(methods=["kd", fixed, other], teacher_seed=5)
    found = {method: outputs_of(plan, run_of(plan, method)) for method in plan.variants}
    assert found == {"kd": [], "kd_fixed": [f"{HOME}/resnet14/seed5"], "ckd_wrn": [f"{HOME}/wrn_16_1/seed5"]}


def test_outputs_depend_on_the_view_and_the_teacher_and_on_no_student():
    def job(**changes):
        return told(plan_of(**changes), "teacher_outputs", "few", "resnet14", 3)

    base = job()
    settings = json.loads(base)
    assert settings["student"] is None
    assert settings["method"] == []
    assert settings["split_seed"] == 3
    same = {"methods": ["ckd", {"method": "mixup", "recipe": {"lr": 0.1}}], "recipe": {"epochs": 9, "lr": 0.2}}
    assert job(**same) == base
    assert job(recipe={"epochs": 4, "augmentation": {"flip": False}}) != base
    assert job(datasets={"few": {**BASE["datasets"]["few"], "validation": 0.2}}) != base
    assert told(plan_of(), "teacher_outputs", "fewer", "resnet14", 3) != base
    assert told(plan_of(), "teacher_outputs", "few", "wrn_16_1", 3) != base


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"methods": [{"method": "ckd", "recipe": {"augmentation": {"flip": False}}}]},
            "methods.ckd for student resnet8 .* may not change augmentation",
        ),
        ({"methods": [{"method": "asib", "num_stages": 1}], "recipe": FIXED}, "methods.asib trains its teachers"),
        ({"methods": ["ckd"], "recipe": {"epochs": 4, "mixup_alpha": 0.2}}, "ckd is not defined for MixUp"),
        ({"recipe": {**FIXED, "mixup_alpha": 0.2}}, "teacher_view fixed"),
    ],
)
def test_what_one_fixed_view_cannot_serve_is_told_before_any_job(changes, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        plan_of(**changes)
    assert "\n" not in str(raised.value)


def test_rows_name_every_stage_whose_cost_a_run_owes():
    plan = plan_of(methods=["ce", "ckd", {"method": "ft", "recipe": {"teacher_view": "fixed"}}], seeds=[3])
    found = {row["method"]: row for row in rows(Jobs(plan)) if row["dataset"] == "few" and row["kind"] == "student"}
    assert found["ce"]["prestage_paths"] == []
    assert found["ckd"]["prestage_paths"] == [f"{HOME}/resnet14/seed3"]
    assert found["ft"]["prestage_paths"] == ["results/unit/few/pretrain/resnet14/ft/seed3", f"{HOME}/resnet14/seed3"]
    assert '"teacher_view":"live"' in told(plan, "pretrain_method", "few", "resnet14", "ft", 3)
    assert all(row["prestage_paths"] == [] for row in rows(Jobs(plan)) if row["kind"] == "teacher")


def test_data_sets_that_differ_at_load_time_only_are_packed_once():
    plan = plan_of()
    folders = {name: data_folder(plan, name) for name in BASE["datasets"]}
    assert folders["few"] == folders["fewer"] == "results/unit/few/data"
    assert folders["small"] == "results/unit/small/data"


def test_a_scheduler_is_asked_for_little():
    plan = plan_of()
    work = Jobs(plan).of("teacher_outputs", "few", "resnet14", 0).work
    assert work.minutes <= 6
    assert work.at(2).mem_mb == 2 * work.mem_mb


def test_trainings_side_by_side_share_libraries_and_images():
    plan = plan_of()
    jobs = Jobs(plan)
    work, other = (jobs.of("teacher_outputs", name, "resnet14", 0).work for name in ("few", "small"))
    assert work_together([work]) == work
    assert work.mem_mb < work_together([work, other] * 10).mem_mb < 3 * work.mem_mb


FULL = {"full": {"source": "digits"}, "few": BASE["datasets"]["few"], "fewer": BASE["datasets"]["fewer"]}


def test_teachers_may_have_a_data_set_of_their_own():
    plan, own = plan_of(datasets=FULL, teacher_dataset="full"), plan_of(datasets=FULL)
    assert {run.dataset for run in plan.runs} == {dataset for dataset, _ in plan.groups} == {"few", "fewer"}
    assert {teacher.dataset for teacher in plan.teachers} == {"full"}
    assert {teacher.dataset for teacher in own.teachers} == {"full", "few", "fewer"}
    assert plan.place(plan.teacher("few", "resnet14", 3)) == "results/unit/full/teachers/resnet14/seed3"
    assert outputs_of(plan, run_of(plan, "ckd", 3)) == [f"{HOME}/resnet14/seed3"]
    found = [row for row in rows(Jobs(plan)) if row["seed"] == 3]
    assert {row["path"] for row in found if row["kind"] == "teacher"} == {
        f"results/unit/full/teachers/{name}/seed3" for name in ("resnet14", "wrn_16_1")
    }
    assert [row["teacher_paths"] for row in found if row["method"] == "kd"] == [
        ["results/unit/full/teachers/resnet14/seed3"]
    ] * 2
    assert told(plan, "train_student", run_of(plan, "kd")) == told(own, "train_student", run_of(own, "kd"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"teacher_dataset": "ful"},
            r"teacher_dataset must be one of several datasets \(full, few, fewer\), found ful",
        ),
        ({"datasets": {"full": {"source": "digits"}}}, "teacher_dataset must be one of several datasets"),
        ({"datasets": {**FULL, "small": BASE["datasets"]["small"]}}, "datasets.small must have the images and classes"),
        ({"datasets": {**FULL, "two": {"source": "digits", "class_subset": [1, 2]}}}, "datasets.two must have"),
    ],
)
def test_a_data_set_of_the_teachers_has_the_students_images(changes, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        plan_of(**{"datasets": FULL, "teacher_dataset": "full", **changes})
    assert "\n" not in str(raised.value)

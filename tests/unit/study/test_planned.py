"""Files that a user asks for: those in folders of planned runs, and what is said of others."""

import pytest

from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.plan import Plan
from kd.study.planned import Targets

CONTENT = {
    "experiment": "unit",
    "datasets": {"full": {"source": "digits"}, "few": {"source": "digits", "subset_size": 300}},
    "teacher_dataset": "full",
    "teacher_seed": 3,
    "pairs": [{"teachers": ["resnet20", "wrn_16_1"], "student": "resnet8"}],
    "methods": [
        "ce",
        {"method": "takd", "assistants": ["resnet14"]},
        {"method": "asib", "num_stages": 2, "student_epochs": 1},
        {"method": "asib", "name": "longer", "num_stages": 3, "student_epochs": 1},
    ],
    "seeds": [0, 1],
    "recipe": {"epochs": 4},
    "continual": {
        "student": "resnet8",
        "teacher": "resnet32",
        "num_tasks": 5,
        "strategies": [{"name": "plain"}, {"name": "taught", "targets": "teacher"}],
    },
}
OUTPUTS = ["results/unit/runs.csv", "results/unit/tables/comparison.md", "results/unit/{dataset}/{team}/run.json"]


@pytest.fixture(scope="module")
def targets() -> Targets:
    return Targets(Jobs(Plan(check_experiment(CONTENT))), ["all", "tables"], OUTPUTS)


PLANNED = {
    "link": "few/resnet20--resnet14/takd.hop1/seed1/run.json",
    "dots": "few/data/../none--resnet8/ce/seed0/checkpoints/best.safetensors",
    "stage": "few/resnet20+wrn_16_1--resnet8/longer/seed0/stage3/teacher_update/state.pt",
    "synergy": "few/resnet20+wrn_16_1--resnet8/asib/seed0/synergy_outputs/run.json",
    "continual": "few/continual/resnet8/taught/seed1/matrix.json",
    "continual_teacher": "full/teachers/resnet32/seed3/run.json",
    "teacher": "full/teachers/wrn_16_1/seed3/evaluation.json",
    "data": "few/data/manifest.json",
    "tuned": "few/tuned/resnet14/choice.json",
    "table": "tables/comparison.md",
    "runs": "runs.csv",
}


@pytest.mark.parametrize("target", PLANNED.values(), ids=PLANNED)
def test_files_of_planned_runs_can_be_asked_for(targets, target):
    assert targets.not_planned(f"results/unit/{target}") == ""


REFUSED = {
    "teachers_data_set": (
        "full/none--resnet8/ce/seed0/run.json",
        "no 'none--resnet8' in results/unit/full: planned are data, ",
    ),
    "students_data_set": ("few/teachers/resnet20/seed3/run.json", "no 'teachers' in results/unit/few"),
    "teacher_seed": (
        "full/teachers/resnet20/seed0/run.json",
        "no 'seed0' in results/unit/full/teachers/resnet20: did you mean",
    ),
    "stage": ("few/resnet20+wrn_16_1--resnet8/asib/seed0/stage3/teacher_update/run.json", "no 'stage3' in"),
    "strategy": ("few/continual/resnet8/plian/seed0/matrix.json", "did you mean 'plain'? planned are plain, taught"),
    "student": ("few/continual/resnet20/plain/seed0/matrix.json", "no 'resnet20' in results/unit/few/continual"),
    "link": (
        "few/resnet20--resnet8/takd.hop1/seed0/run.json",
        "no 'takd.hop1' in results/unit/few/resnet20--resnet8: planned are takd",
    ),
    "tables": (
        "table/comparison.md",
        "no 'table' in results/unit: did you mean 'tables'? planned are full, few, tables",
    ),
}


@pytest.mark.parametrize(("target", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_planned_is_told_where_it_leaves_the_plan(targets, target, said):
    target = f"results/unit/{target}"
    sentence = targets.not_planned(target)
    assert sentence.startswith(f"Target {target}: the experiment has no ")
    assert said in sentence
    assert targets.no_such(target) == sentence


def test_other_places_are_not_judged_by_the_plan(targets):
    for target in (
        "results/unit2/few/run.json",
        "results/benchmark/benchmark.json",
        "data/x.png",
        "README.md",
        "table",
    ):
        assert targets.not_planned(target) == ""


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("tabels", "did you mean 'tables'? rules are all, tables; files"),
        ("results/unit/few/none--resnet8/ce/seed0/run.jsn", "did you mean 'run.json'? rules are"),
        ("elsewhere/run.json", "makes such a file: rules are"),
    ],
    ids=["rule", "file", "place"],
)
def test_a_file_that_no_rule_makes_gets_the_nearest_name(targets, target, hint):
    assert hint in targets.no_such(target)
    assert targets.no_such(target).endswith("files of this experiment lie in results/unit")

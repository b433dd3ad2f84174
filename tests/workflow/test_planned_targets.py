"""Targets that no experiment plans: refused in one sentence, as a user types them."""

import pytest
from checkout import copy_repository, environment
from dry_run import snakemake_without_jobs

pytestmark = pytest.mark.workflow

HOME = "results/quickstart/digits"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_repository(tmp_path_factory.mktemp("targets") / "repository")


def dry_run(checkout, *arguments):
    return snakemake_without_jobs(checkout, *arguments, "-n", environment=environment())


REFUSED = {
    "method": (f"{HOME}/resnet14--resnet8/kdd/seed0/metrics.csv", "no 'kdd' in", "did you mean 'kd'?"),
    "seed": (f"{HOME}/resnet14--resnet8/kd/seed9/metrics.csv", "no 'seed9' in", "planned are seed0, seed1"),
    "seed_named_otherwise": (f"{HOME}/resnet14--resnet8/kd/seed_0/metrics.csv", "no 'seed_0' in", "seed0"),
    "seed_with_zeros": (f"{HOME}/resnet14--resnet8/kd/seed00/metrics.csv", "no 'seed00' in", "seed0"),
    "data_set": ("results/quickstart/digit/none--resnet8/ce/seed0/run.json", "no 'digit' in", "did you mean 'digits'?"),
    "network": (f"{HOME}/resnet56--resnet8/kd/seed0/run.json", "no 'resnet56--resnet8' in", "resnet14--resnet8"),
    "no_network": (f"{HOME}/resnet14--resnet88/asib/seed0/run.json", "no 'resnet14--resnet88' in", "resnet14--resnet8"),
    "other_pair": (f"{HOME}/none--resnet8/kd/seed0/evaluation.json", "no 'kd' in", "planned are ce"),
    "stage": (
        f"{HOME}/resnet14+wrn_16_1--resnet8/asib/seed0/stage7/teacher_update/run.json",
        "no 'stage7' in",
        "stage2",
    ),
    "teacher": (f"{HOME}/teachers/resnet20/seed0/run.json", "no 'resnet20' in", "did you mean 'resnet14'?"),
    "teachers_seed": (f"{HOME}/teachers/resnet14/seed9/evaluation.json", "no 'seed9' in", "planned are seed0, seed1"),
    "pre_stage": (f"{HOME}/pretrain/resnet14/kd/seed0/run.json", "no 'kd' in", "planned are ft"),
    "file": (f"{HOME}/resnet14--resnet8/kd/seed0/evaluation.jsn", "evaluation.jsn", "did you mean 'evaluation.json'?"),
    "rule": ("tabels", "no rule", "did you mean 'tables'?"),
    "experiment": ("results/quickstrat/runs.csv", "results/quickstrat/runs.csv", "results/quickstart"),
    "nothing": ("nonsense/x", "nonsense/x", "results/quickstart"),
    "absolute": ("/nowhere/results/quickstart/runs.csv", "/nowhere/results", "results/quickstart"),
}


@pytest.mark.parametrize(("target", "found", "allowed"), REFUSED.values(), ids=REFUSED)
def test_a_target_that_is_not_planned_is_refused_in_a_sentence(checkout, target, found, allowed):
    done = dry_run(checkout, target)
    assert done.returncode != 0
    said = done.stdout[done.stdout.index("Building DAG of jobs...") :].splitlines()[1:]
    assert len(said) == 1, said
    assert said[0].startswith("Target ")
    assert found in said[0]
    assert allowed in said[0]


PLANNED = [
    f"{HOME}/resnet14--resnet8/kd/seed1/metrics.csv",
    f"./{HOME}/none--resnet8/ce/seed0/checkpoints/last.safetensors",
    f"{HOME}/resnet14+wrn_16_1--resnet8/asib/seed0/stage2/student_update/checkpoints/best.safetensors",
    f"{HOME}/resnet14+wrn_16_1--resnet8/asib/seed0/synergy.json",
    f"{HOME}/resnet14+wrn_16_1--resnet8/asib/seed0/stage1/teacher_update/predictions.npz",
    f"{HOME}/pretrain/resnet14/ft/seed0/extra.safetensors",
    f"{HOME}/teachers/resnet14/seed0/evaluation.json",
    f"{HOME}/tuned/resnet14/choice.json",
    f"{HOME}/data/manifest.json",
    "results/quickstart/figures/digits/resnet14+wrn_16_1--resnet8/accuracy.png",
    "results/quickstart/tables/comparison.md",
    "results/quickstart/report.html",
    "results/benchmark/benchmark.json",
    "single",
]


def test_what_is_planned_can_be_asked_for(checkout):
    done = dry_run(checkout, *PLANNED)
    assert done.returncode == 0, done.stdout[-2000:]


def test_one_target_among_right_ones_is_refused(checkout):
    done = dry_run(checkout, *PLANNED[:2], REFUSED["seed"][0])
    assert done.returncode != 0
    assert "no 'seed9' in" in done.stdout
    done = dry_run(checkout, "all", "--forcerun", REFUSED["seed"][0])
    assert done.returncode != 0
    assert "no 'seed9' in" in done.stdout

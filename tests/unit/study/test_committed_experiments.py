"""Every committed experiment is valid, and those of the few-sample protocol are that protocol."""

import pytest
import yaml

from kd.schema.cards import CARD_FOLDER
from kd.study.experiment import check_experiment, load_experiment, variants
from kd.study.plan import Plan

FOLDER = CARD_FOLDER.parent / "experiments"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

RATES = {0.1, 0.05, 0.025}
PAIRS = [(["resnet110"], "resnet32"), (["wrn_40_2"], "wrn_16_2"), (["vgg13"], "vgg8")]
SWEPT = {
    # method cards that each learning rate is tried with, beside ce and kd
    "ckd": {"ckd"},
    "mixup": {"mixup", "mixup3", "cutmix"},
    "relational": {"rkd", "dist", "crd"},
    "white_box": {"kd", "hint", "cc", "vid"},
    "white_box_ckd": {"ckd_inter"},
}


def planned(name, folder):
    """Return the plan of a committed experiment, whose images need not be on this machine."""
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for dataset in content["datasets"].values():
        if "root" in dataset and not dataset.get("download"):
            dataset["root"] = str(folder)
    return Plan(check_experiment(content))


@pytest.mark.parametrize("name", FILES)
def test_a_committed_experiment_is_valid_and_plans_runs(name, tmp_path):
    plan = planned(name, tmp_path)
    assert plan.experiment.experiment == name
    assert plan.runs or plan.continual.runs


@pytest.mark.parametrize("name", SWEPT)
def test_few_sample_experiments_are_the_protocol(name):
    experiment = load_experiment(FOLDER / f"{name}.yaml")
    few = [data for key, data in experiment.datasets.items() if key != experiment.teacher_dataset]
    assert {data.subset_size for data in few} == {2000, 2500, 3000, 3500, 4000, 4500, 5000, 6000}
    assert all((data.source, data.subset, data.validation) == ("cifar100", "uniform", 0.2) for data in few)
    assert experiment.datasets[experiment.teacher_dataset].subset_size is None, "the teacher learned from all images"
    assert [(list(pair.teachers), pair.student) for pair in experiment.pairs] == PAIRS
    assert experiment.seeds == [1, 2, 3]
    recipe = experiment.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (1000, 64, 0.05)
    assert (recipe.schedule, recipe.patience, recipe.lr_drops, recipe.gamma) == ("plateau", 50, 3, 0.1)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 5e-4)
    assert recipe.teacher_view == "fixed"


@pytest.mark.parametrize("name", SWEPT)
def test_few_sample_experiments_try_every_learning_rate(name):
    experiment = load_experiment(FOLDER / f"{name}.yaml")
    rates: dict[str, set[float]] = {}
    for variant in variants(experiment):
        rates.setdefault(variant.base.split("+")[0], set()).add(variant.recipe.get("lr", experiment.recipe.lr))
    assert {"ce", "kd"} <= set(rates)
    assert {card: found for card, found in rates.items() if card in SWEPT[name]} == dict.fromkeys(SWEPT[name], RATES)


COMPARED = {
    # of each loss: the settings that the published comparison names
    "ce": [("ce", {})],
    "at": [("kd", {"ce_weight": 0.9, "kd_weight": 0.1, "temperature": 4}), ("at", {"ce_weight": 0, "at_weight": 1000})],
    "fitnets": [
        ("kd", {"ce_weight": 0.9, "kd_weight": 0.1, "temperature": 4}),
        ("hint", {"ce_weight": 0, "hint_weight": 1000, "student_taps": ["last"], "teacher_taps": ["last"]}),
    ],
    "byot": [("byot", {"alpha": 0.1, "temperature": 4})],
    "dml": [("dml", {"peers": 1})],
}
TEACHER = {"epochs": 100, "batch_size": 32, "lr": 0.1, "milestones": [30, 60, 90]}
STUDENT = {"epochs": 50, "batch_size": 32, "lr": 0.01, "milestones": [10, 20, 30, 40]}


@pytest.mark.parametrize(("name", "share"), [("kd_comparison", 1), ("kd_comparison_small", 1 / 5)])
def test_the_comparison_on_class_folders_is_the_published_one(name, share, tmp_path):
    plan = planned(name, tmp_path)
    experiment = plan.experiment
    for run in plan.runs:
        parts, wanted = plan.variants[run.method].parts, COMPARED[run.method]
        told = zip(parts, wanted, strict=True)
        assert [(card, {key: given[key] for key in settings}) for (card, given), (_, settings) in told] == wanted
        assert recipe(plan.recipe_of(run)) == scaled(STUDENT, share)
        assert recipe(plan.teacher_recipe(experiment.pairs[0].teachers[0])) == scaled(TEACHER, share)
    assert {run.method for run in plan.runs} == set(COMPARED)
    assert {"tensorboard", "results_list"} == set(experiment.report.sinks)
    archs = {plan.model(pair.student).arch for pair in experiment.pairs}
    assert archs == {"timm:resnet18" if share == 1 else "resnet8", "MultiBranchNet"}
    assert plan.model(experiment.pairs[0].teachers[0]).arch == ("timm:resnet50" if share == 1 else "resnet20")
    assert len(experiment.seeds) == 3


def recipe(found):
    """Return what the published comparison says of a recipe; all of it descends by the same rule."""
    assert (found.optimizer, found.momentum, found.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (found.schedule, found.gamma) == ("step", 0.1)
    return {key: getattr(found, key) for key in TEACHER}


def scaled(wanted, share):
    """Return a recipe of fewer epochs, milestones with them."""
    return {
        **wanted,
        "epochs": wanted["epochs"] * share,
        "milestones": [milestone * share for milestone in wanted["milestones"]],
    }


@pytest.mark.parametrize("name", SWEPT)
def test_teachers_of_few_sample_experiments_learn_for_240_epochs(name):
    plan = Plan(load_experiment(FOLDER / f"{name}.yaml"))
    for teachers, _ in PAIRS:
        found = plan.teacher_recipe(teachers[0])
        assert (found.epochs, found.batch_size, found.lr, found.gamma) == (240, 64, 0.05, 0.1)
        assert (found.schedule, found.milestones) == ("step", [150, 180, 210])


def test_few_sample_comparisons_try_groups_of_two_and_of_three():
    found = variants(load_experiment(FOLDER / "ckd.yaml"))
    assert {dict(variant.parts)["ckd"]["pos_and_neg"] for variant in found if variant.base == "ckd"} == {2, 3}

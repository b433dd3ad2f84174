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


@pytest.mark.parametrize("name", FILES)
def test_a_committed_experiment_is_valid_and_plans_runs(name, tmp_path):
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for dataset in content["datasets"].values():
        if "root" in dataset and not dataset.get("download"):
            dataset["root"] = str(tmp_path)  # the images themselves may not be on this machine
    experiment = check_experiment(content)
    assert experiment.experiment == name
    plan = Plan(experiment)
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

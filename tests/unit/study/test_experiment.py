"""What a wrong experiment file gets: one sentence that names the key, what was found and what is allowed."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from told import told

from kd.study.experiment import check_experiment, load_experiment, variants, workflow_configuration
from kd.study.job_settings import parse_settings
from kd.study.plan import Plan
from kd.study.runs import Teacher
from kd.tools.errors import UserError

BASE = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet14", "wrn_16_1"], "student": "resnet8"}],
    "methods": ["ce", "kd", "asib"],
    "seeds": [0, 1],
    "recipe": {"epochs": 4},
}


def changed(path: str, value):
    content = copy.deepcopy(BASE)
    *parents, last = path.split(".")
    place = content
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("recipe.epoch", 3, r"unknown key in recipe 'epoch': did you mean 'epochs'\?"),
        ("seed", [0], r"unknown key 'seed': did you mean 'seeds'\?"),
        ("datasets.digits.sorce", "x", r"unknown key in datasets.digits 'sorce': did you mean 'source'\?"),
        ("recipe.epochs", "many", r"recipe.epochs: .*a whole number from 1 to 100000, found 'many'"),
        ("recipe.epochs", 0, r"recipe.epochs: .*a whole number from 1 to 100000, found 0"),
        ("recipe.lr", -0.1, r"recipe.lr: .*a number above 0 to 1e\+30, found -0.1"),
        ("recipe.schedule", "cosin", r"recipe.schedule: .*'step', 'cosine', 'constant' or 'plateau', found 'cosin'"),
        ("recipe.augmentation", {"crop": "random"}, r"recipe.augmentation.crop: .*found 'random'"),
        ("datasets.digits.source", "digit", r"datasets.digits.source: .*found 'digit'"),
        ("datasets.digits", {"source": "imagenet32"}, "root is required for source imagenet32"),
        ("methods.1", "kdd", r"unknown method 'kdd': did you mean 'kd'\?"),
        ("methods.1", {"method": "kd", "temprature": 2.0}, r"'temprature': did you mean 'temperature'\?"),
        (
            "methods.1",
            {"method": "kd", "temperature": 0.0},
            r"methods\[1\].temperature: .*a number above 0.*, found 0.0",
        ),
        (
            "methods.1",
            {"method": "kd", "temperature": "4"},
            r"methods\[1\].temperature: .*a number above 0.*, found '4'",
        ),
        ("methods.1", {"method": "kd", "recipe": {"lrr": 1}}, r"unknown key in methods\[1\].recipe 'lrr'"),
        ("methods.1", {"method": "kd", "teacher": "resnet8"}, "unknown teacher in methods"),
        ("methods.1", {"name": "x"}, "give one of method, card and combine"),
        ("methods.1", {"name": "x", "combine": ["kd", "kd"]}, "at least two different methods"),
        ("methods.1", {"combine": ["kd", "at"]}, "a combination needs a name"),
        ("methods.1", {"name": "x", "combine": ["asib", "at"]}, "chain of jobs cannot be combined"),
        ("methods.1", {"name": "x", "combine": ["kd", "mixup"]}, "mixup makes one image of several and cannot be comb"),
        (
            "methods.1",
            {"name": "x", "combine": ["kd", {"method": "hint", "two_stage": True}]},
            "hint trains in several stages and cannot be combined",
        ),
        (
            "methods.1",
            {"name": "x", "combine": ["kd", "dot"], "recipe": {"optimizer": "adamw"}},
            r"methods\[1\]: method dot needs recipe.optimizer sgd without nesterov, found adamw",
        ),
        (
            "methods.1",
            {"name": "x", "combine": ["kd", "dot"], "recipe": {"nesterov": True}},
            "sgd without nesterov, found sgd with nesterov",
        ),
        (
            "methods.1",
            {"name": "x", "combine": ["kd", {"method": "dot", "delta": 0.1}]},
            "less and plus delta of method dot must lie from 0 to below 1, found 0.9 and 0.1",
        ),
        ("methods.1", "ce", "two variants are named 'ce'"),
        ("methods.1", {"method": "kd", "name": "a--b"}, "letters a-z and A-Z, digits, '_' and '.', .*found 'a--b'"),
        (
            "methods.2",
            {"method": "asib", "num_stages": 2, "teacher_adapt_epochs": [1, 2, 3]},
            "lists 3 values for num_stages 2",
        ),
        ("methods.2", {"method": "asib", "num_stages": 8}, "there are 4 epochs for num_stages 8"),
        ("pairs.0.student", "resnet9", r"unknown architecture 'resnet9': did you mean"),
        ("pairs.0.teachers", ["resnet14"], "asib needs several teachers"),
        ("pairs.0.teachers", ["resnet14", "resnet14"], "teachers of a pair must differ"),
        (
            "models",
            {"resnet14": {"arch": "resnet14", "train": False}},
            "train: false .* give its weights as pretrained",
        ),
        *(
            ("models", {"resnet14": {"arch": "resnet14", "pretrained": __file__, "train": False} | more}, sentence)
            for more, sentence in [
                ({"arch": "timm:resnet18"}, "train: false .* say small_input as it was trained with"),
                ({"freeze": 0}, "train: false .*, freeze does not belong to it"),
                ({"freeze_bn": True}, "train: false .*, freeze_bn does not belong to it"),
                ({"recipe": {"lr": 0.1}}, "train: false .*, recipe does not belong to it"),
                ({"classes": {"overlap": 0.5, "side": "first"}}, "train: false .*, classes does not belong to it"),
            ]
        ),
        (
            "models",
            {"resnet8": {"arch": "resnet8", "pretrained": __file__, "train": False}},
            r"models\.resnet8\.train: only a teacher is used as it is, resnet8 is a student",
        ),
        ("seeds", [0, 0], "seeds must differ"),
        ("seeds", [], "seeds: "),
        ("recipe.warmup_epochs", 4.0, r"warmup_epochs \(4\) must be below epochs \(4\)"),
        ("report", {"references": ["dkd"]}, "unknown method in report.references 'dkd'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(path, value, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        check_experiment(changed(path, value))
    assert "\n" not in str(raised.value)


def test_an_experiment_without_the_usual_references_is_read_back_from_its_record():
    experiment = check_experiment({**BASE, "methods": ["ce", "hint"]})
    assert check_experiment(experiment.model_dump(mode="json")) == experiment


def test_what_a_student_changes_in_the_recipe_counts_for_the_momentum_too():
    methods = ["ce", {"name": "x", "combine": ["kd", "dot"]}]
    check_experiment({**BASE, "methods": methods})
    for network, refused in (("resnet8", True), ("resnet14", False)):
        content = {**BASE, "methods": methods, "models": {network: {"arch": network, "recipe": {"optimizer": "adam"}}}}
        if not refused:
            check_experiment(content)
            continue
        with pytest.raises(UserError, match="found adam"):
            check_experiment(content)


NUMBERS = """
experiment: unit
datasets: {images: {source: imagefolder, root: FOLDER, class_subset: [1e4, "2e5"], validation: 2e-1}}
models: {resnet8: {arch: resnet8, recipe: {min_lr: 5.e-6}}}
pairs: [{teachers: [resnet14, wrn_16_1], student: resnet8}]
methods:
  - {method: kd, name: 1e3, temperature: 4E0, recipe: {lr: +2e-3}}
  - {method: asib, num_stages: 2, teacher_adapt_epochs: 1, teacher_lr: [1e-4, .5e-4]}
  - {name: both, combine: [ce, {method: at, at_weight: 1e3}]}
seeds: [0]
recipe: {epochs: 4, lr: 1e-4, milestones: [5e-1], optimizer: adam, betas: [9e-1, 0.99]}
report: {references: [both]}
"""


def test_numbers_with_an_exponent_are_floats_wherever_a_number_stands(tmp_path):
    (tmp_path / "unit.yaml").write_text(NUMBERS.replace("FOLDER", json.dumps(str(tmp_path))), encoding="utf-8")
    experiment = load_experiment(tmp_path / "unit.yaml")
    recipe, images = experiment.recipe, experiment.datasets["images"]
    assert (recipe.lr, recipe.milestones, recipe.betas) == (1e-4, [0.5], (0.9, 0.99))
    assert (images.validation, images.class_subset) == (0.2, ["1e4", "2e5"]), "names of class folders stay text"
    kd, asib, both = variants(experiment)
    assert kd.name == "1e3"
    assert dict(kd.parts)["kd"]["temperature"] == 4.0
    assert dict(asib.parts)["asib"]["teacher_lr"] == [1e-4, 5e-5]
    assert dict(both.parts)["at"]["at_weight"] == 1000.0
    plan = Plan(experiment)
    found = parse_settings(told(plan, "train_student", plan.runs[0])).recipe
    assert (found.lr, found.min_lr) == (2e-3, 5e-6), "recipes of networks and methods"


@pytest.mark.parametrize("text", ["4", "1e", "e4", "1e-4x", "0x1e4", "1_0e4"])
def test_other_text_is_no_number(text):
    with pytest.raises(UserError, match=rf"recipe.lr: .*a number above 0 to 1e\+30, found '{text}'"):
        check_experiment(changed("recipe.lr", text))


def test_a_number_with_an_exponent_is_no_count():
    with pytest.raises(UserError, match=r"recipe.epochs: .*a whole number from 1 to 100000, found 100.0"):
        check_experiment(changed("recipe.epochs", "1e2"))


def test_a_change_within_the_augmentation_leaves_the_rest_of_it():
    """Every method has one recipe: a method's cutout must not reset crop, padding and flip."""
    own = {"crop": "none", "flip": False, "randaugment": {"ops": 3, "magnitude": 5}}
    content = changed("recipe.augmentation", own)
    content["methods"] = [
        {"method": "kd", "recipe": {"augmentation": {"cutout": 4}}},
        {"method": "kd", "name": "kd2", "recipe": {"augmentation": {"randaugment": {"magnitude": 9}}}},
        {"method": "kd", "name": "kd3", "recipe": {"augmentation": {"randaugment": None}}},
    ]
    plan = Plan(check_experiment(content))
    found = {run.method: plan.recipe_of(run).augmentation.model_dump() for run in plan.runs}
    whole = {"padding": 4, "cutout": None, **own}
    assert found == {
        "kd": {**whole, "cutout": 4},
        "kd2": {**whole, "randaugment": {"ops": 3, "magnitude": 9}},
        "kd3": {**whole, "randaugment": None},
    }


def test_mixed_labels_are_refused_where_undefined():
    content = {**BASE, "methods": ["ce", "crd"], "recipe": {"epochs": 4, "mixup_alpha": 0.2}}
    with pytest.raises(UserError, match="crd is not defined for MixUp"):
        check_experiment(content)


@pytest.mark.parametrize(("text", "sentence"), [("a: [", "is not valid YAML"), ("- a", "must hold keys and values")])
def test_files_that_are_no_experiment(tmp_path, text, sentence):
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        load_experiment(tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="does not exist"):
        load_experiment(tmp_path / "absent.yaml")


def test_nothing_of_the_quick_start_leaks_into_an_experiment(tmp_path):
    default = tmp_path / "config.yaml"
    default.write_text(yaml.safe_dump({**BASE, "gpus": 3}), encoding="utf-8")
    assert "gpus" not in workflow_configuration(BASE, default)
    assert workflow_configuration({"gpus": 1}, default)["gpus"] == 1


def test_runs_are_every_method_and_seed_once():
    plan = Plan(
        check_experiment(
            {**BASE, "pairs": [*BASE["pairs"], {"teachers": ["wrn_16_1", "resnet20"], "student": "resnet8"}]}
        )
    )
    paths = [run.path for run in plan.runs]
    assert len(paths) == len(set(paths))
    assert paths.count("digits/none--resnet8/ce/seed0") == 1, "pairs share the baseline"
    assert "digits/resnet14--resnet8/kd/seed1" in paths
    assert "digits/resnet14+wrn_16_1--resnet8/asib/seed0" in paths
    assert len(plan.teachers) == 3 * 2


def test_one_teacher_for_all_seeds():
    plan = Plan(check_experiment({**BASE, "teacher_seed": 7}))
    assert plan.teachers == [Teacher(name, "digits", 7) for name in ("resnet14", "wrn_16_1")]
    assert '"split_seed":7' in told(plan, "train_student", plan.runs[0])


def test_teachers_have_a_recipe_of_their_own_and_each_network_its_changes():
    plan = Plan(
        check_experiment(
            {
                **BASE,
                "models": {"resnet14": {"arch": "resnet14", "recipe": {"lr": 0.02, "cutmix_alpha": 0.5}}},
                "recipe": {"epochs": 4, "lr": 0.1},
                "teacher_recipe": {"epochs": 7, "lr": 0.3, "cutmix_alpha": 1.0},
            }
        )
    )

    def of(text):
        recipe = parse_settings(text).recipe
        return recipe.epochs, recipe.lr, recipe.cutmix_alpha

    assert of(told(plan, "train_teacher", "digits", "resnet14", 0)) == (7, 0.02, 0.5)
    assert of(told(plan, "train_teacher", "digits", "wrn_16_1", 0)) == (7, 0.3, 1.0)
    assert {of(told(plan, "train_student", run)) for run in plan.runs if run.method != "asib"} == {(4, 0.1, 0.0)}


def test_without_a_recipe_of_their_own_teachers_have_the_students_with_each_networks_changes():
    models = {"resnet8": {"arch": "resnet8", "recipe": {"lr": 0.02}}, "wrn_16_1": {"arch": "wrn_16_1"}}
    plan = Plan(check_experiment({**BASE, "models": models, "recipe": {"epochs": 4, "cutmix_alpha": 1.0}}))
    teacher = parse_settings(told(plan, "train_teacher", "digits", "wrn_16_1", 0)).recipe
    student = parse_settings(told(plan, "train_student", plan.runs[0])).recipe
    assert (teacher.epochs, teacher.lr, teacher.cutmix_alpha) == (4, 0.05, 1.0)
    assert student == teacher.model_copy(update={"lr": 0.02})


def test_settings_hold_what_a_run_uses_and_nothing_else():
    plan, other = (
        Plan(check_experiment({**BASE, "methods": methods})) for methods in (["ce", "kd"], ["ce", "kd", "at"])
    )
    for run in plan.runs:
        assert told(plan, "train_student", run) == told(other, "train_student", run)
    changed_kd = Plan(check_experiment({**BASE, "methods": ["ce", {"method": "kd", "temperature": 2.0}]}))
    before, after = ({run: told(one, "train_student", run) for run in plan.runs} for one in (plan, changed_kd))
    assert {run.method for run in plan.runs if before[run] != after[run]} == {"kd"}


def test_later_stages_do_not_touch_earlier_ones():
    def halves(**settings):
        plan = Plan(check_experiment({**BASE, "methods": [{"method": "asib", "student_epochs": 2, **settings}]}))
        run = plan.runs[0]
        kinds = ("teacher_update", "student_update")
        return [told(plan, f"asib_{half}", run, k) for k in range(1, settings["num_stages"] + 1) for half in kinds]

    base = halves(num_stages=3)
    edited = halves(num_stages=3, teacher_lr=[1e-4, 1e-4, 5e-4])
    assert [a == b for a, b in zip(base, edited, strict=True)] == [True] * 4 + [False, True]
    assert halves(num_stages=2, schedule_span="stage") == halves(num_stages=3, schedule_span="stage")[:4]
    shorter = halves(num_stages=2)
    assert all(a != b for a, b in zip(shorter, base, strict=False)), "schedules over the whole chain know its length"


def test_names_of_variants_of_a_method():
    found = variants(
        check_experiment({**BASE, "methods": ["kd", {"method": "kd", "name": "kd_t2", "temperature": 2.0}]})
    )
    assert [(variant.name, variant.base) for variant in found] == [("kd", "kd"), ("kd_t2", "kd")]


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[3].glob("config/**/*.yaml")), ids=lambda path: path.stem)
def test_configuration_files_are_yaml_without_tabs(path):
    assert "\t" not in path.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)

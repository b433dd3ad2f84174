"""Hundreds of wrong experiments: each is one plain sentence that names the key, and none of the checker's own words."""

import datetime
import math
from typing import Any

import pytest
from mistakes import RIGHT, Place, assert_plain, changed, dotted

from kd.schema.cards import card_names, load_cards
from kd.study.experiment import check_experiment
from kd.study.plan import Plan
from kd.tools.errors import UserError


def refused(content: Any) -> str:
    with pytest.raises(UserError) as raised:
        Plan(check_experiment(content))
    assert_plain(str(raised.value))
    return str(raised.value)


def test_the_experiment_that_they_are_made_from_is_right():
    plan = Plan(check_experiment(RIGHT))
    assert len(plan.runs) == 120


R: Place = ("recipe",)
D: Place = ("datasets", "digits")
COUNTS: dict[str, Place] = {
    "epochs": (*R, "epochs"),
    "batch_size": (*R, "batch_size"),
    "eval_batch_size": (*R, "eval_batch_size"),
    "workers": (*R, "workers"),
    "lr_drops": (*R, "lr_drops"),
    "patience": (*R, "patience"),
    "padding": (*R, "augmentation", "padding"),
    "cutout": (*R, "augmentation", "cutout"),
    "ops": (*R, "augmentation", "randaugment", "ops"),
    "magnitude": (*R, "augmentation", "randaugment", "magnitude"),
    "image_size": (*D, "image_size"),
    "split_seed": (*D, "split_seed"),
    "subset_size": ("datasets", "few", "subset_size"),
    "resident": (*D, "resident_limit_mb"),
    "freeze": ("models", "teacher_a", "freeze"),
    "gpus": ("gpus",),
    "jobs_per_gpu": ("jobs_per_gpu",),
    "threads": ("threads",),
    "students_per_job": ("students_per_job",),
    "teacher_seed": ("teacher_seed",),
    "num_tasks": ("continual", "num_tasks"),
    "replay": ("continual", "strategies", 1, "replay_capacity"),
    "seed": ("seeds", 1),
    "num_stages": ("methods", 5, "num_stages"),
    "generations": ("methods", 6, "generations"),
}
AMOUNTS: dict[str, Place] = {
    **{key: (*R, key) for key in ("lr", "momentum", "weight_decay", "gamma", "warmup_epochs", "min_lr")},
    **{key: (*R, key) for key in ("label_smoothing", "mixup_alpha", "cutmix_alpha", "grad_clip", "grad_clip_final")},
    **{key: (*R, key) for key in ("grad_clip_hold", "ema_decay", "ema_start_decay", "ema_warmup_epochs")},
    "beta": (*R, "betas", 1),
    "milestone": (*R, "milestones", 0),
    "validation": (*D, "validation"),
    "confidence": ("report", "confidence"),
    "temperature": ("methods", 2, "temperature"),
    "method_lr": ("methods", 2, "recipe", "lr"),
    "network_lr": ("models", "teacher_a", "recipe", "lr"),
    "part": ("methods", 4, "combine", 1, "hint_weight"),
    "stage_lr": ("methods", 5, "teacher_lr", 1),
    "ib_beta": ("methods", 5, "ib_beta"),
    "strategy_lr": ("continual", "strategies", 1, "recipe", "lr"),
    "target_weight": ("continual", "strategies", 2, "target_weight"),
}
NO_NUMBER = {
    "text": "many",
    "true": True,
    "list": [[1]],
    "keys": {"a": 1},
    "date": datetime.date(2024, 1, 1),
    "nan": math.nan,
    "inf": math.inf,
    "huge": 10**400,
    "below": -7,
}
FOR_A_COUNT = {**NO_NUMBER, "fraction": 2.5, "most": 10**18}
FOR_AN_AMOUNT = {**NO_NUMBER, "exponent": "1e999", "most": 1e31}

WRONG_NUMBERS = [
    pytest.param(place, value, id=f"{name}-{kind}")
    for places, values in ((COUNTS, FOR_A_COUNT), (AMOUNTS, FOR_AN_AMOUNT))
    for name, place in places.items()
    for kind, value in values.items()
]


@pytest.mark.parametrize(("place", "value"), WRONG_NUMBERS)
def test_a_wrong_number_is_told_with_its_key(place, value):
    sentence = refused(changed(place, value))
    assert sentence.startswith(f"{dotted(place)}")
    assert "found" in sentence


TEXTS: dict[str, Place] = {
    "experiment": ("experiment",),
    "source": (*D, "source"),
    "subset": (*D, "subset"),
    "crop": (*R, "augmentation", "crop"),
    **{key: (*R, key) for key in ("optimizer", "schedule", "precision", "kernels", "teacher_view", "ema_every")},
    "arch": ("models", "small", "arch"),
    "student": ("pairs", 0, "student"),
    "teacher": ("pairs", 0, "teachers", 1),
    "name": ("methods", 2, "name"),
    "method": ("methods", 2, "method"),
    "of_teacher": ("methods", 2, "teacher"),
    "part": ("methods", 4, "combine", 0),
    "tap": ("methods", 3, "student_taps", 0),
    "weights": ("report", "weights"),
    "reference": ("report", "references", 0),
    "kind": ("report", "analysis", "kind"),
    "cache": ("cache",),
    "co_train": ("co_train", 0),
    "strategy": ("continual", "strategies", 0, "name"),
    "class_order": ("continual", "class_order"),
}
NO_TEXT = {"number": 7, "false": False, "null": None, "list": [["a"]], "date": datetime.date(2024, 1, 1)}


@pytest.mark.parametrize(
    ("place", "value"),
    [pytest.param(p, v, id=f"{name}-{kind}") for name, p in TEXTS.items() for kind, v in NO_TEXT.items()],
)
def test_what_is_no_text_is_told_with_its_key(place, value):
    assert refused(changed(place, value)).startswith(dotted(place))


SECTIONS: dict[str, Place] = {
    "datasets": ("datasets",),
    "dataset": D,
    "models": ("models",),
    "model": ("models", "small"),
    "model_recipe": ("models", "small", "recipe"),
    "classes": ("models", "teacher_a", "classes"),
    "pairs": ("pairs",),
    "pair": ("pairs", 0),
    "teachers": ("pairs", 0, "teachers"),
    "methods": ("methods",),
    "entry": ("methods", 1),
    "entry_recipe": ("methods", 2, "recipe"),
    "combine": ("methods", 4, "combine"),
    "part": ("methods", 4, "combine", 1),
    "seeds": ("seeds",),
    "recipe": R,
    "betas": (*R, "betas"),
    "milestones": (*R, "milestones"),
    "augmentation": (*R, "augmentation"),
    "randaugment": (*R, "augmentation", "randaugment"),
    "teacher_recipe": ("teacher_recipe",),
    "report": ("report",),
    "references": ("report", "references"),
    "analysis": ("report", "analysis"),
    "co_train": ("co_train",),
    "continual": ("continual",),
    "strategies": ("continual", "strategies"),
    "strategy": ("continual", "strategies", 0),
    "strategy_recipe": ("continual", "strategies", 1, "recipe"),
}
NO_SECTION = {"number": 3, "text": "all of them", "true": True, "lists": [[1]], "keys": {5: 1}}


@pytest.mark.parametrize(
    ("place", "value"),
    [pytest.param(p, v, id=f"{name}-{kind}") for name, p in SECTIONS.items() for kind, v in NO_SECTION.items()],
)
def test_what_is_no_section_is_told_with_its_key(place, value):
    assert dotted(place) in refused(changed(place, value))


MISSPELT: dict[str, tuple[Place, str]] = {
    "top": (("seed",), "seeds"),
    "dataset": ((*D, "sorce"), "source"),
    "model": (("models", "small", "achr"), "arch"),
    "model_recipe": (("models", "small", "recipe"), ""),
    "pair": (("pairs", 0, "teacher"), "teachers"),
    "recipe": ((*R, "epoch"), "epochs"),
    "augmentation": ((*R, "augmentation", "pading"), "padding"),
    "randaugment": ((*R, "augmentation", "randaugment", "op"), "ops"),
    "entry": (("methods", 2, "temprature"), "temperature"),
    "entry_recipe": (("methods", 2, "recipe", "Lr"), "lr"),
    "combination": (("methods", 4, "recip"), "recipe"),
    "part": (("methods", 4, "combine", 1, "hint_wieght"), "hint_weight"),
    "chain": (("methods", 5, "num_stage"), "num_stages"),
    "report": (("report", "weight"), "weights"),
    "analysis": (("report", "analysis", "variant"), "variants"),
    "continual": (("continual", "num_task"), "num_tasks"),
    "strategy": (("continual", "strategies", 1, "replay_capacty"), "replay_capacity"),
    "template": (("__definitions__",), ""),
}


@pytest.mark.parametrize(("place", "meant"), MISSPELT.values(), ids=MISSPELT)
def test_a_misspelt_key_is_told_with_the_nearest_right_one(place, meant):
    if place == ("models", "small", "recipe"):
        place, meant = (*place, "Epochs"), "epochs"
        content = changed(place[:-1], {"Epochs": 3})
    else:
        content = changed(place, 1)
    sentence = refused(content)
    assert f"'{place[-1]}'" in sentence
    assert f"did you mean '{meant}'?" in sentence if meant else "did you mean" not in sentence


NAMES = {
    "empty": "",
    "space": " ",
    "blank_inside": "a b",
    "newline": "kd\n",
    "nul": "a\0b",
    "slash": "a/b",
    "up": "..",
    "hidden": ".cache",
    "dot_last": "a.",
    "plus": "a+b",
    "dashes": "a--b",
    "braces": "a{b}",
    "accent": "kd\u00e9",
    "quote": "a'b",
    "surrogate": "a\ud800",
    "long": "x" * 101,
    "very_long": "x" * 100_000,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize(
    "place",
    [("experiment",), ("methods", 2, "name"), ("pairs", 0, "student"), ("continual", "strategies", 0, "name")],
    ids=["experiment", "method", "student", "strategy"],
)
def test_a_name_that_is_no_folders_is_told(place, name):
    assert refused(changed(place, name)).startswith(dotted(place))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("section", ["datasets", "models"])
def test_a_key_that_is_no_folders_name_is_told(section, name):
    value = {"datasets": {"source": "digits"}, "models": {"arch": "resnet8"}}[section]
    assert refused(changed((section, name), value)).startswith(section)


TAKEN = {
    "experiment": (("experiment",), ["reference", "benchmark", "Benchmark"]),
    "method": (("methods", 2, "name"), ["teacher", "Teacher", "student", "link", "none", "data", "teachers", "tuned"]),
    "method_too": (("methods", 2, "name"), ["pretrain", "teacher_outputs", "continual", "tables", "figures", "logs"]),
    "device": (("experiment",), ["nul", "Con", "aux.x", "com1"]),
    "device_method": (("methods", 2, "name"), ["prn", "lpt9.1"]),
    "twice": (("methods", 2, "name"), ["kd", "KD", "born_again.gen1", "Born_again.gen2"]),
}


@pytest.mark.parametrize(
    ("place", "name"), [pytest.param(p, n, id=f"{k}-{n}") for k, (p, names) in TAKEN.items() for n in names]
)
def test_a_name_that_is_taken_is_told(place, name):
    assert name in refused(changed(place, name))


@pytest.mark.parametrize(
    "name",
    [
        "runs.csv",
        "checked.json",
        "statistics.json",
        "report.html",
        "tables",
        "figures",
        "logs",
        "Logs",
        "FEW",
        "data",
        "tuned",
    ],
)
def test_a_data_set_cannot_have_the_name_of_what_lies_beside_it(name):
    assert name in refused(changed(("datasets", name), {"source": "digits"}))


@pytest.mark.parametrize("name", ["none", "None", "overlap", "Small", "nul"])
def test_a_teacher_cannot_have_the_name_of_what_lies_beside_it(name):
    models = {**RIGHT["models"], name: {"arch": "resnet20"}}
    content = changed(("pairs", 0, "teachers", 0), name, changed(("models",), models))
    assert name in refused(content)


@pytest.mark.parametrize("pair", [0, 1])
def test_a_pair_is_listed_once(pair):
    content = changed(("pairs",), [*RIGHT["pairs"], RIGHT["pairs"][pair]])
    assert "is listed twice" in refused(content)


CONTRADICTIONS: dict[str, tuple[Place, Any, str]] = {
    "min_lr": ((*R, "min_lr"), 0.2, "recipe.min_lr: must be at most lr"),
    "min_lr_model": (("models", "teacher_a", "recipe"), {"min_lr": 0.2}, "models.teacher_a.recipe.min_lr"),
    "min_lr_method": (("methods", 2, "recipe", "lr"), 1e-6, "methods[2].recipe.min_lr"),
    "min_lr_teacher": (("teacher_recipe", "min_lr"), 0.3, "teacher_recipe.min_lr"),
    "warmup": ((*R, "warmup_epochs"), 10.0, "recipe: warmup_epochs (10) must be below epochs"),
    "milestones_fall": ((*R, "milestones"), [8, 4], "recipe.milestones: must rise"),
    "milestones_twice": ((*R, "milestones"), [4, 4], "recipe.milestones: must rise"),
    "milestones_same": ((*R, "milestones"), [0.5, 5], "recipe.milestones: must rise"),
    "milestones_cosine": ((*R, "schedule"), "cosine", "milestones belong to schedule step"),
    "betas_order": ((*R, "betas"), [2, -1], "recipe.betas[0]"),
    "betas_one": ((*R, "betas"), [0.9, 1.0], "recipe.betas[1]"),
    "betas_short": ((*R, "betas"), [0.9], "recipe.betas"),
    "betas_long": ((*R, "betas"), [0.9, 0.9, 0.9], "recipe.betas"),
    "freeze": (("models", "teacher_a", "freeze"), 99, "models.teacher_a.freeze: resnet20 has 4 blocks, found 99"),
    "freeze_5": (("models", "small"), {"arch": "vgg8", "freeze": 6}, "models.small.freeze: vgg8 has 5 blocks"),
    "cutout": ((*R, "augmentation", "cutout"), 1000, "recipe.augmentation.cutout: must be at most"),
    "padding": ((*R, "augmentation", "padding"), 8, "recipe.augmentation.padding: must be below"),
    "cutout_method": (
        ("methods", 2, "recipe"),
        {"augmentation": {"cutout": 17}},
        "methods[2].recipe.augmentation.cutout",
    ),
    "epochs": ((*R, "epochs"), 1e12, "recipe.epochs"),
    "no_patience": (("teacher_recipe", "schedule"), "plateau", "patience belongs to schedule plateau"),
    "nesterov_adam": (("teacher_recipe",), {"epochs": 5, "optimizer": "adam", "nesterov": True}, "recipe.nesterov"),
    "ema_order": ((*R, "ema_start_decay"), 0.995, "recipe.ema_start_decay: must be at most ema_decay"),
    "ema_alone": ((*R, "ema_decay"), None, "ema_start_decay needs ema_decay"),
    "clip_alone": ((*R, "grad_clip"), 0.0, "grad_clip_final needs a grad_clip above 0"),
    "ratios": ((*D, "split_ratios"), {"train": 0.9, "test": 0.5}, "datasets.digits.split_ratios: train + val + test"),
    "ratios_nan": ((*D, "split_ratios"), {"train": math.nan, "test": 0.5}, "datasets.digits.split_ratios.train"),
    "subset": (("datasets", "few", "subset_size"), 2, "datasets.few.subset_size: needs 2 of each of 3 classes"),
    "classes_twice": (("datasets", "few", "class_subset"), ["0", "1", "0"], "datasets.few.class_subset"),
    "classes_one": (("datasets", "few", "class_subset"), [0], "at least two different classes"),
    "classes_outside": (("datasets", "few", "class_subset"), [3, 10], "datasets.few.class_subset"),
    "classes_mixed": (("datasets", "few", "class_subset"), ["a", 1], "datasets.few.class_subset"),
    "classes_no": (("datasets", "few", "class_subset"), ["a", False], "put quotes"),
    "classes_negative": (("datasets", "few", "class_subset"), [-1, 2], "datasets.few.class_subset[0]"),
    "references_twice": (("report", "references"), ["kd", "kd"], "report: references must differ"),
    "seeds_twice": (("seeds",), [0, 1, 0], "seeds must differ"),
    "seeds_none": (("seeds",), [], "seeds"),
    "teachers_twice": (("pairs", 0, "teachers"), ["resnet20", "resnet20"], "teachers of a pair must differ"),
    "gpus": (("gpus",), 0, "jobs_per_gpu 2 needs gpus 1"),
    "co_train_one": (("co_train",), ["kd"], "co_train names two methods or more"),
    "students_per_job_alone": (
        ("co_train",),
        [],
        "students_per_job bounds the students of co_train, found 2 without co_train",
    ),
    "students_per_job_one": (
        ("students_per_job",),
        1,
        "students_per_job: must be a whole number from 2 to 1000 or null, found 1",
    ),
    "combine_keys": (
        ("methods", 4, "combine"),
        {"kd": 1, "at": {"at_weight": 1.0}},
        "methods[4].combine: must be a list",
    ),
    "combine_null": (("methods", 4, "combine"), None, "methods[4].combine: must be a list"),
    "combine_one": (("methods", 4, "combine"), ["kd"], "methods[4].combine: needs at least two"),
    "combine_empty": (("methods", 4, "combine"), [], "methods[4].combine: needs at least two"),
    "name_null": (("methods", 4, "name"), None, "methods[4].name"),
    "recipe_list": (("methods", 2, "recipe"), ["lr"], "methods[2].recipe"),
    "stages": (("methods", 5, "num_stages"), 1_000_000, "methods[5].num_stages: must be a whole number from 1 to 100"),
    "tasks": (("continual", "num_tasks"), 11, "continual.num_tasks"),
    "order": (("continual", "class_order"), [0, 0, 1], "continual.class_order"),
    "alone": (("continual", "strategies", 1), {"name": "plain"}, "two are named 'plain'"),
    "path_newline": (("cache",), "a\nb", "cache"),
    "path_nul": (("cache",), "a\0b", "cache"),
    "path_long": (("cache",), "a/" + "b" * 256, "cache"),
    "path_very_long": (("cache",), "a/" * 2500, "cache"),
    "path_empty": (("cache",), "", "cache"),
    "weights_long": (("models", "small", "pretrained"), "x" * 300, "models.small.pretrained"),
    "weights_number": (("models", "small", "pretrained"), 1, "models.small.pretrained"),
    "root_newline": ((*D, "root"), "data\n", "datasets.digits.root"),
    "deep": ((*R, "augmentation"), eval("[" * 60 + "]" * 60), "recipe"),
    "arch": (("models", "small", "arch"), "resnet21", "did you mean 'resnet20'?"),
    "method": (("methods", 1), "kd_logit_sdt", "did you mean 'kd_logit_std'?"),
    "method_case": (("methods", 1), "DKD", "did you mean 'dkd'?"),
}


@pytest.mark.parametrize(("place", "value", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_cannot_be_meant_together_is_told(place, value, said):
    assert said in refused(changed(place, value))


def test_cyclic_content_is_told():
    around: list[Any] = []
    around.append(around)
    refused(changed(("methods", 1), around))
    keys: dict[str, Any] = {}
    keys["recipe"] = keys
    refused(changed(("recipe", "augmentation"), keys))


@pytest.mark.parametrize("content", [{}, [], None, "experiment", {5: 1}, {"experiment": "unit"}], ids=repr)
def test_what_is_no_experiment_is_told(content):
    refused(content)


def test_more_runs_than_can_be_planned_are_told():
    content = changed(("seeds",), list(range(1000)))
    content["methods"] = [{"method": "kd", "name": f"kd{i}"} for i in range(1000)]
    del content["co_train"], content["students_per_job"], content["report"]
    assert "runs" in refused(content)


ABSURD = {"float": (math.inf, -math.inf, math.nan, 1e30, -1e30), "int": (10**12, -(10**12), 10**400, 1.5, True)}


@pytest.mark.parametrize("name", card_names())
def test_every_setting_of_a_card_has_sensible_bounds(name):
    found = load_cards()[name]
    for key, setting in found.settings.items():
        kind = setting.type.removeprefix("list[").removesuffix("]")
        for value in ABSURD.get(kind, ()):
            given = [value] if setting.type.startswith("list") else value
            with pytest.raises(UserError) as raised:
                found.resolve({key: given}, "methods[0]")
            assert_plain(str(raised.value))
            assert str(raised.value).startswith(f"methods[0].{key}")
        if kind in {"int", "float"}:
            assert setting.max is not None, f"{name}.{key}"
            assert setting.min is not None or setting.above is not None, f"{name}.{key}"


HARMLESS: dict[str, tuple[Place, Any]] = {
    "braces": (("description",), "a {dataset} and {{more}} $HOME %s 'x' \"y\""),
    "accents": (("description",), "\u00e9\u4e2d\u6587 \U0001f600"),
    "path": (("cache",), "my cache/{x} $HOME/100 %/it's/\u00e9"),
    "null": (("datasets", "digits", "subset_size"), None),
    "int_for_float": ((*R, "lr"), 1),
    "exponent": ((*R, "lr"), "1e-2"),
    "one_stage": (("methods", 5, "teacher_lr"), 0.1),
    "big_seed": (("seeds",), [2**32 - 1, 20240131]),
    "timm": (("models", "small", "arch"), "timm:resnet18"),
}


@pytest.mark.parametrize(("place", "value"), HARMLESS.values(), ids=HARMLESS)
def test_what_is_harmless_is_taken(place, value):
    Plan(check_experiment(changed(place, value)))


MORE: dict[str, tuple[Place, Any, str]] = {
    "class_name": (("datasets", "few", "class_subset"), ["0", "ten"], "unknown class of digits 'ten'"),
    "class_text": (
        ("datasets", "few", "class_subset"),
        [0, 1, 2, "three"],
        "datasets.few.class_subset: unknown class of digits 'three'",
    ),
    "stage_list": (("methods", 5, "teacher_adapt_epochs"), [1, 2, 3], "methods[5]: asib: teacher_adapt_epochs lists 3"),
    "no_targets": (
        ("continual", "strategies", 2, "targets"),
        None,
        "does nothing without targets, found 0.5 with targets null",
    ),
    "gamma": (("teacher_recipe", "gamma"), 0.5, "teacher_recipe.gamma: does nothing with schedule cosine, found 0.5"),
    "gamma_method": (
        ("methods", 2, "recipe"),
        {"schedule": "cosine", "milestones": [], "gamma": 0.3},
        "methods[2].recipe.gamma: does nothing",
    ),
    "betas": (
        ("methods", 2, "recipe"),
        {"optimizer": "sgd", "betas": [0.5, 0.5]},
        "methods[2].recipe.betas: does nothing",
    ),
    "momentum": ((*R, "momentum"), 0.5, "recipe.momentum: does nothing with optimizer adamw"),
    "momentum_model": (
        ("models", "teacher_a", "recipe"),
        {"optimizer": "adam", "momentum": 0.5},
        "models.teacher_a.recipe.mom",
    ),
    "hold": (("teacher_recipe", "grad_clip_hold"), 0.25, "teacher_recipe.grad_clip_hold: does nothing without"),
    "ema": (("teacher_recipe", "ema_every"), "epoch", "teacher_recipe.ema_every: does nothing without ema_decay"),
    "levels": (
        ("methods", 5),
        {"method": "asib", "use_partial_freeze": True, "teacher_freeze_levels": [1]},
        "methods[5].teacher_freeze_levels: give one a teacher",
    ),
    "level": (
        ("methods", 5),
        {"method": "asib", "use_partial_freeze": True, "teacher_freeze_level": 5},
        "methods[5]: freezing keeps the last 5 blocks of teacher_a, which has 4",
    ),
    "weights": (
        ("models", "teacher_a", "pretrained"),
        True,
        "models.teacher_a.pretrained: true is for timm's networks",
    ),
    "subset_large": (("datasets", "few", "subset_size"), 4000, "datasets.few.subset_size: digits has 1797 images"),
    "validation": (("datasets", "few", "validation"), 0.0, "datasets.few.validation: digits has no validation split"),
    "tap": (("methods", 3, "student_taps"), ["a\nb"], "methods[3].student_taps[0]: must be a name"),
    "batch": ((*R, "batch_size"), 64_000, "recipe.batch_size: there are at most 1797 training images"),
    "batch_method": (("methods", 2, "recipe", "batch_size"), 64_000, "methods[2].recipe.batch_size: there are at most"),
    "batch_model": (("models", "small", "recipe"), {"batch_size": 64_000}, "models.small.recipe.batch_size: there are"),
    "cutout_model": (
        ("models", "small", "recipe"),
        {"augmentation": {"cutout": 17}},
        "models.small.recipe.augmentation.cutout: must be at most",
    ),
    "padding_none": (
        (*R, "augmentation", "crop"),
        "none",
        "recipe.augmentation.padding: does nothing with crop none, found 2",
    ),
    "padding_resized": (
        ("methods", 2, "recipe"),
        {"augmentation": {"crop": "resized", "padding": 1}},
        "methods[2].recipe.augmentation.padding: does nothing with crop resized, found 1",
    ),
    "no_layers": (
        ("methods", 5),
        {"method": "asib", "feat_loss_weight": [0.5], "feat_layers": [], "feat_weights": []},
        "methods[5]: asib: feat_loss_weight needs feat_layers",
    ),
    "no_taps": (("methods", 3, "student_taps"), [], "methods[3].student_taps: must name at least one tap"),
    "taps_twice": (
        ("methods", 3, "student_taps"),
        ["stage1", "stage2", "stage1"],
        "methods[3].student_taps: must name each tap once, found ['stage1', 'stage2', 'stage1']",
    ),
    "unused": (
        ("models", "teacher_b"),
        {"arch": "resnet20"},
        "models.teacher_b: nothing uses this network: did you mean 'teacher_a'?",
    ),
}


@pytest.mark.parametrize(("place", "value", "said"), MORE.values(), ids=MORE)
def test_what_would_be_dropped_is_told(place, value, said):
    assert said in refused(changed(place, value))


TOGETHER: dict[str, tuple[dict[str, Any], Any, str]] = {
    "min_lr": ({"lr": 0.001}, {"method": "dkd", "recipe": {"min_lr": 0.01}}, "recipe.min_lr: must be at most lr"),
    "mixup": ({"mixup_alpha": 0.2}, "crd", "crd is not defined for MixUp"),
    "epochs": ({"epochs": 1, "warmup_epochs": 0}, {"method": "asib", "name": "b"}, "there are 1 epochs for num_stages"),
}


@pytest.mark.parametrize(("own", "method", "said"), TOGETHER.values(), ids=TOGETHER)
def test_what_a_students_own_recipe_makes_of_a_methods_is_told(own, method, said):
    content = changed(("models", "small", "recipe"), own)
    content["methods"] = [*content["methods"][:5], method]
    content["recipe"] = {"epochs": 10, "lr": 0.05}
    sentence = refused(content)
    assert sentence.startswith("methods[5] for student small")
    assert said in sentence

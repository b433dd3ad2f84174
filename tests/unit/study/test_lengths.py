"""Lengths in epochs that a training is too short for are told before the first job, each in one sentence."""

import pytest

from kd.schema.cards import card, card_names
from kd.study.experiment import check_experiment
from kd.study.lengths import lengths_beyond, unscaled_lengths
from kd.tools.errors import UserError


def experiment(*methods, epochs=6, **more):
    recipe = {"epochs": epochs, **more.pop("recipe", {})}
    content = {
        "experiment": "unit",
        "datasets": {"digits": {"source": "digits", "image_size": 8}},
        "pairs": [{"teachers": ["resnet14", "wrn_16_1"], "student": "resnet8"}],
        "methods": list(methods),
        "seeds": [0],
        "recipe": recipe,
    }
    return check_experiment({**content, **more})


ASIB = {"method": "asib", "num_stages": 2, "teacher_adapt_epochs": 2}
NEVER_WHOLE = "so what it raises is never whole"
TOLD = {
    "dkd": ("dkd", f"methods.dkd.warmup_epochs: 20 of 6 epochs, {NEVER_WHOLE}"),
    "reviewkd": ("reviewkd", f"methods.reviewkd.warmup_epochs: 20 of 6 epochs, {NEVER_WHOLE}"),
    "ctkd": ("ctkd", f"methods.ctkd.ramp_epochs: 10 of 6 epochs, {NEVER_WHOLE}"),
    "ab": ("ab", "methods.ab.init_epochs: 30 epochs before or between the recipe's own 6"),
    "fsp": ("fsp", "methods.fsp.init_epochs: 30 epochs before or between the recipe's own 6"),
    "ft": ("ft", "methods.ft.paraphraser_epochs: 30 epochs before or between the recipe's own 6"),
    "hint": (
        {"name": "two", "method": "hint", "two_stage": True},
        "methods.two.hint_epochs: 30 epochs before or between the recipe's own 6",
    ),
    "combined": (
        {"name": "both", "combine": ["dkd", {"method": "at", "ce_weight": 0.0}]},
        f"methods.both.dkd.warmup_epochs: 20 of 6 epochs, {NEVER_WHOLE}",
    ),
    "teacher update": (
        {**ASIB, "teacher_adapt_epochs": [2, 9]},
        "methods.asib.teacher_adapt_epochs: 9 epochs before or between the recipe's own 6",
    ),
    "bottleneck": (
        {**ASIB, "ib_beta_warmup_epochs": 5.0},
        f"methods.asib.ib_beta_warmup_epochs: 5 of 4 epochs, {NEVER_WHOLE}",
    ),
    "bottleneck by stage": (
        {**ASIB, "ib_beta_warmup_epochs": 3.0, "schedule_span": "stage"},
        f"methods.asib.ib_beta_warmup_epochs: 3 of 2 epochs, {NEVER_WHOLE}",
    ),
    "beta": ({**ASIB, "beta_schedule": [0.0, 1.0, 9.0]}, f"methods.asib.beta_schedule: 9 of 4 epochs, {NEVER_WHOLE}"),
    "temperature": (
        {**ASIB, "tau_end": 1.0, "tau_decay_epochs": 7.0},
        f"methods.asib.tau_decay_epochs: 7 of 6 epochs, {NEVER_WHOLE}",
    ),
    "synergy": (
        {**ASIB, "teacher_adapt_alpha_kd": 0.1, "synergy_only_epochs": 2.0},
        "methods.asib.synergy_only_epochs: 2 of 2 epochs, so what it holds back never begins",
    ),
    "cccp": (
        {**ASIB, "cccp_alpha": 0.1, "cccp_ramp_epochs": 3.0},
        f"methods.asib.cccp_ramp_epochs: 3 of 2 epochs, {NEVER_WHOLE}",
    ),
}


@pytest.mark.parametrize(("method", "sentence"), TOLD.values(), ids=TOLD.keys())
def test_a_length_beyond_the_training_is_one_sentence(method, sentence):
    assert lengths_beyond(experiment(method)) == [sentence]


QUIET = ["hint", {"method": "dkd", "warmup_epochs": 6}, {"method": "dkd", "dkd_weight": 0.0}, "ca_mkd", ASIB]


@pytest.mark.parametrize("method", QUIET, ids=["not on", "fits", "weighs nothing", "one epoch of six", "asib"])
def test_what_fits_or_does_nothing_is_not_told(method):
    assert lengths_beyond(experiment(method)) == []


def test_a_training_of_one_epoch_leaves_out_what_begins_in_the_second():
    told = ["methods.ca_mkd.first_epoch: 1 of 1 epochs, so what it holds back never begins"]
    assert lengths_beyond(experiment("ca_mkd", epochs=1)) == told
    assert lengths_beyond(experiment({"method": "ca_mkd", "first_epoch": True}, epochs=1)) == []


def test_a_variants_own_epochs_are_what_counts():
    assert lengths_beyond(experiment({"method": "dkd", "recipe": {"epochs": 20}})) == []
    found = lengths_beyond(experiment({"method": "dkd", "recipe": {"epochs": 2}}, epochs=240))
    assert found == [f"methods.dkd.warmup_epochs: 20 of 2 epochs, {NEVER_WHOLE}"]


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (
            {"schedule": "step", "milestones": [2, 150, 180]},
            "milestones: 150, 180 of 6 epochs, so the rate never drops there",
        ),
        ({"schedule": "step", "milestones": [0.5, 0.75]}, None),
        ({"schedule": "plateau", "patience": 30}, "patience: 30 of 6 epochs, so the rate never drops"),
        ({"schedule": "plateau", "patience": 2}, None),
    ],
    ids=["milestones", "shares", "patience", "short patience"],
)
def test_a_short_trial_of_a_long_recipe_is_allowed_and_told(recipe, sentence):
    assert lengths_beyond(experiment("kd", recipe=recipe)) == ([f"recipe.{sentence}"] if sentence else [])


def test_a_recipe_that_plans_beyond_its_end_is_told_once():
    recipe = {"ema_decay": 0.9, "ema_start_decay": 0.5, "ema_warmup_epochs": 9.0}
    sentence = "recipe.ema_warmup_epochs: 9 of 6 epochs, so it never ends"
    assert lengths_beyond(experiment("kd", "at", recipe=recipe)) == [sentence]
    assert lengths_beyond(experiment("kd", teacher_recipe={"epochs": 6, **recipe})) == [f"teacher_{sentence}"]


def test_a_warm_up_that_no_student_update_outlasts_is_refused():
    """The recipe of an update would be refused where it begins, when the update before it has been trained."""
    chain = {**ASIB, "student_epochs": 3, "schedule_span": "stage"}
    with pytest.raises(
        UserError, match=r"recipe.warmup_epochs \(4\) must be below .* student update, found 3 in stage 1"
    ):
        experiment(chain, recipe={"warmup_epochs": 4.0})
    assert lengths_beyond(experiment({**chain, "schedule_span": "chain"}, recipe={"warmup_epochs": 4.0})) == []


NOT_LENGTHS = {("asib", key) for key in ("epochs_span", "kd_schedule_granularity", "teacher_epochs")}
"""Settings that speak of epochs and are no length that somebody gives."""


@pytest.mark.parametrize("name", card_names())
def test_every_setting_that_counts_epochs_says_of_what_and_within_which(name):
    settings = card(name).settings
    counting = {key for key in settings if "epoch" in key and (name, key) not in NOT_LENGTHS}
    assert {key for key in counting if settings[key].epochs is None} == set()
    for key, setting in settings.items():
        if setting.epochs is not None:
            needs = {need.partition("=")[0] for need in setting.epochs.needs}
            assert {*needs, setting.epochs.within} - {""} <= settings.keys(), key


@pytest.mark.parametrize("name", [name for name in card_names() if not card(name).chain])
def test_every_length_in_the_recipes_epochs_says_of_which_training(name):
    """A switch is no number of epochs, and the chain's lengths are its own."""
    for key, setting in card(name).settings.items():
        if setting.epochs is not None and not setting.epochs.within and setting.type != "bool":
            assert setting.epochs.recipe is not None, key


HINT = {"name": "two", "method": "hint", "two_stage": True}
COUNTED = {
    "dkd": ("dkd", "methods.dkd.warmup_epochs: 20 of 100 epochs"),
    "reviewkd": ("reviewkd", "methods.reviewkd.warmup_epochs: 20 of 100 epochs"),
    "ab": ("ab", "methods.ab.init_epochs: 30 of 100 epochs"),
    "fsp": ("fsp", "methods.fsp.init_epochs: 30 of 100 epochs"),
    "ft": ("ft", "methods.ft.paraphraser_epochs: 30 of 100 epochs"),
    "hint": (HINT, "methods.two.hint_epochs: 30 of 100 epochs"),
    "combined": ({"name": "both", "combine": ["dkd", "at"]}, "methods.both.dkd.warmup_epochs: 20 of 100 epochs"),
    "choice": ({"method": "sdd", "base": "dkd"}, "methods.sdd.warmup_epochs: 20 of 100 epochs"),
    "given": ({"method": "ctkd", "ramp_epochs": 11}, "methods.ctkd.ramp_epochs: 11 of 100 epochs"),
}


@pytest.mark.parametrize(("method", "sentence"), COUNTED.values(), ids=COUNTED.keys())
def test_more_than_a_tenth_of_a_training_is_told_with_both_numbers(method, sentence):
    told = f"{sentence}, which the card counts in a training of 240: recipe.schedule_epochs scales it"
    assert unscaled_lengths(experiment(method, epochs=100)) == [told]
    assert unscaled_lengths(experiment(method, epochs=100, recipe={"schedule_epochs": 240})) == []


@pytest.mark.parametrize("method", ["ctkd", "hint", {"method": "dkd", "dkd_weight": 0.0}, "sdd", ASIB, "ca_mkd", "kd"])
def test_a_tenth_and_what_is_off_or_no_length_of_a_recipe_is_not_told(method):
    assert unscaled_lengths(experiment(method, epochs=100)) == []


def test_a_training_of_the_cards_own_length_is_told_too_and_has_nothing_to_scale():
    sentence = "methods.ab.init_epochs: 30 of 240 epochs, which the card counts in a training of 240"
    assert unscaled_lengths(experiment("ab", "dkd", epochs=240)) == [sentence]


def test_what_does_not_fit_is_told_once():
    assert unscaled_lengths(experiment("dkd", "ctkd", HINT)) == []
    assert len(lengths_beyond(experiment("dkd", "ctkd", HINT))) == 3
    scaled = experiment("dkd", "ctkd", HINT, recipe={"schedule_epochs": 240})
    assert lengths_beyond(scaled) == []

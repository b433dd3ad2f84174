"""Searches: what each trial draws, which jobs they are, and what cannot be searched."""

import json

import pytest

from kd.schema.cards import card, load_cards
from kd.schema.config import Range
from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.jobs.check import checks_of
from kd.study.jobs.reports import rows, trial_rows
from kd.study.plan import Plan
from kd.study.search import drawn, share_of
from kd.tools.errors import UserError

PAIR = {"teachers": ["resnet20", "wrn_16_1"], "student": "resnet8"}


def plan_of(*methods, search=None, **changes) -> Plan:
    content = {
        "experiment": "unit",
        "datasets": {"digits": {"source": "digits"}},
        "pairs": [PAIR],
        "methods": list(methods),
        "seeds": [0, 1],
        "recipe": {"epochs": 4},
        "search": {"trials": 4, **(search or {})},
    }
    return Plan(check_experiment({**content, **changes}))


def settings_of(plan: Plan, name: str) -> list[dict]:
    """What the trials of a method are told: their losses' settings, in order."""
    return [
        {card(reference).name: settings for reference, settings in variant.parts}
        for variant in plan.variants.values()
        if variant.trial and variant.searched == name
    ]


def recipes_of(plan: Plan, name: str) -> list:
    searches = [search for search in plan.searches.runs if plan.variants[search.method].searched == name]
    return [plan.recipe_of(trial) for trial in plan.searches.trials(searches[0])]


# The first 12 hexadecimal digits of `printf '%s' '1000 recipe.lr 2' | sha256sum`, and so on, as a share of 16^12.
SHARES = {
    (1000, "recipe.lr", 2): 0x1864B4ADC664 / 16**12,
    (1000, "recipe.lr", 3): 0xD6F4A6AA74FE / 16**12,
    (1000, "kd.temperature", 2): 0x00832C096286 / 16**12,
    (7, "kd.temperature", 2): 0x26B0AAB079E2 / 16**12,
}


@pytest.mark.parametrize("which", SHARES, ids=str)
def test_a_draw_is_made_of_seed_name_and_number_alone(which):
    assert share_of(*which) == SHARES[which]


# range, share of the way -> value, worked out by hand
VALUES = {
    "log": (Range(log=(1, 16)), 0.5, 4.0, False, 4.0),
    "log from its start": (Range(log=(0.09, 9)), 0.0, 1.0, False, 0.09),
    "linear": (Range(linear=(0.5, 1.5)), 0.25, 1.0, False, 0.75),
    "times": (Range(times=(0.25, 4)), 0.5, 0.05, False, 0.05),
    "times to its end": (Range(times=(0.25, 4)), 1 - 2**-48, 0.05, False, 0.2),
    "times nothing": (Range(times=(0.25, 4)), 0.7, 0.0, False, 0.0),
    "three digits": (Range(linear=(0, 1)), 1 / 3, 0.5, False, 0.333),
    "never beyond": (Range(linear=(0.1, 0.1234)), 1 - 2**-48, 0.1, False, 0.123),
    "first of whole numbers": (Range(linear=(1, 4)), 0.2499, 2, True, 1),
    "second of whole numbers": (Range(linear=(1, 4)), 0.25, 2, True, 2),
    "last of whole numbers": (Range(linear=(1, 4)), 1 - 2**-48, 2, True, 4),
    "whole logarithm": (Range(log=(1, 16)), 0.5, 4, True, 4),
    "first choice": (Range(choices=["code", "paper"]), 0.499, "code", False, "code"),
    "last choice": (Range(choices=["code", "paper"]), 0.5, "code", False, "paper"),
}


@pytest.mark.parametrize("case", VALUES)
def test_what_lies_so_far_through_a_range(case):
    where, share, usual, whole, expected = VALUES[case]
    found = drawn(where, share, usual, whole)
    assert found == pytest.approx(expected, rel=1e-12)
    assert type(found) is type(expected)


def test_every_method_tries_the_same_rates_and_the_first_trial_is_as_written():
    plan = plan_of("ce", "kd")
    rates = {name: [recipe.lr for recipe in recipes_of(plan, name)] for name in ("ce", "kd")}
    # 0.05 * 0.25 * 16^share of the shares above
    assert rates["ce"][:3] == [0.05, 0.0163, 0.128]
    assert rates["ce"] == rates["kd"]
    assert recipes_of(plan, "kd")[0] == plan.experiment.recipe
    assert settings_of(plan, "kd")[0]["kd"] == card("kd").resolve({}, "kd").model_dump(mode="json")


def test_neither_more_trials_nor_another_hyper_parameter_nor_another_method_moves_a_draw():
    before = plan_of("kd", search={"ranges": {"kd": {"temperature": {"log": [1, 16]}}}})
    ranges = {"kd": {"temperature": {"log": [1, 16]}, "ce_weight": {"linear": [0, 1]}}}
    smoothed = {"label_smoothing": {"linear": [0, 0.2]}}
    after = plan_of("ce", "at", "kd", search={"trials": 8, "ranges": ranges, "recipe": smoothed})
    found = [{**one["kd"], "ce_weight": None} for one in settings_of(after, "kd")[:4]]
    assert found == [{**one["kd"], "ce_weight": None} for one in settings_of(before, "kd")]
    assert [one.lr for one in recipes_of(after, "kd")[:4]] == [one.lr for one in recipes_of(before, "kd")]
    assert len({one["kd"]["ce_weight"] for one in settings_of(after, "kd")}) == 8


def test_another_seed_of_the_search_draws_anew():
    one, other = (settings_of(plan_of("kd", search={"seed": seed}), "kd") for seed in (1000, 7))
    assert one[0] == other[0]
    assert all(first != second for first, second in zip(one[1:], other[1:], strict=True))


def test_what_an_entry_gives_is_not_searched():
    plan = plan_of("ce", {"method": "kd", "temperature": 2.0, "recipe": {"lr": 0.3}})
    found = settings_of(plan, "kd")
    assert {one["kd"]["temperature"] for one in found} == {2.0}
    assert len({one["kd"]["kd_weight"] for one in found}) == 4
    assert {recipe.lr for recipe in recipes_of(plan, "kd")} == {0.3}
    assert len({recipe.weight_decay for recipe in recipes_of(plan, "kd")}) == 4
    assert len({recipe.lr for recipe in recipes_of(plan, "ce")}) == 4


def test_a_combination_searches_what_each_of_its_parts_leaves_open():
    plan = plan_of({"name": "both", "combine": ["kd", {"method": "at", "at_weight": 50.0}, "dkd"]})
    found = settings_of(plan, "both")
    assert {one["at"]["at_weight"] for one in found} == {50.0}
    assert len({one["kd"]["temperature"] for one in found}) == 4
    # of one name, and drawn by the names of their cards
    assert all(one["kd"]["temperature"] != one["dkd"]["temperature"] for one in found[1:])


def test_a_rate_is_a_multiple_of_what_the_network_has():
    plan = plan_of("ce", models={"resnet8": {"arch": "resnet8", "recipe": {"lr": 0.01}}})
    assert [recipe.lr for recipe in recipes_of(plan, "ce")][:3] == [0.01, 0.00326, 0.0256]


def test_null_turns_the_recipe_off():
    plan = plan_of("kd", search={"recipe": {"lr": None, "weight_decay": None}})
    assert {recipe == plan.experiment.recipe for recipe in recipes_of(plan, "kd")} == {True}


def test_only_those_named_are_searched_each_behind_its_own():
    plan = plan_of("ce", {"method": "at", "matched": True}, "kd", search={"methods": ["kd", "at"]})
    assert list(dict.fromkeys(run.method for run in plan.runs)) == [
        *("ce", "at", "at_matched", "at_searched", "kd", "kd_searched"),
    ]
    kinds = {row["method"]: row["kind"] for row in rows(Jobs(plan))}
    assert kinds["at_searched"] == "searched"
    assert kinds["at_matched"] == "control"


# --- jobs ---------------------------------------------------------------------------------------------------------


def jobs_before(jobs: Jobs, job) -> dict[str, list]:
    found: dict[str, list] = {}
    for one in job.after:
        found.setdefault(one.rule, []).append(one)
    return found


def test_a_run_with_searched_settings_waits_for_the_choice_which_waits_for_the_trials():
    plan = plan_of("ce", "kd", recipe={"epochs": 4, "track_test": True})
    jobs = Jobs(plan)
    (run,) = (run for run in plan.runs if run.method == "kd_searched" and run.seed == 1)
    job = jobs.training(run)
    (choice,) = jobs_before(jobs, job)["choose"]
    assert job.inputs["chosen"] == ["results/unit/digits/resnet20--resnet8/kd_searched/seed1000/choice.json"]
    trials = jobs_before(jobs, choice)["train_trial"]
    assert [one.folder for one in trials] == [
        f"results/unit/digits/resnet20--resnet8/kd_searched.trial{number}/seed1000" for number in (1, 2, 3, 4)
    ]
    for one in trials:
        (teacher,) = jobs_before(jobs, one)["train_teacher"]
        assert teacher.folder == "results/unit/digits/teachers/resnet20/seed1000"
        told = json.loads(one.settings)
        assert (told["seed"], told["split_seed"]) == (1000, 1000)
        assert told["recipe"]["track_test"] is False
    # what it is told is as written: the settings are read from the choice
    written = jobs.training(next(run for run in plan.runs if run.method == "kd" and run.seed == 1))
    assert job.settings == written.settings


def test_no_trial_is_evaluated_and_none_has_weights_to_evaluate():
    plan = plan_of("ce", "kd")
    assert not any(plan.variants[run.method].trial for run in plan.runs)
    assert {run.seed for run in plan.runs} == {0, 1}
    assert {teacher.seed for teacher in plan.teachers} == {0, 1}
    assert {row["seed"] for row in rows(Jobs(plan))} == {0, 1}
    assert len(trial_rows(Jobs(plan))) == 8


def test_a_given_teacher_serves_the_trials_too():
    plan = plan_of("kd", teacher_seed=0)
    jobs = Jobs(plan)
    (search,) = plan.searches.runs
    (teacher,) = jobs_before(jobs, jobs.training(plan.searches.trials(search)[0]))["train_teacher"]
    assert teacher.folder.endswith("/seed0")


def test_more_trials_leave_the_others_as_they_are_and_choose_anew():
    few, more = (Jobs(plan_of("kd", search={"trials": trials})) for trials in (4, 8))
    identities = [
        [jobs.training(trial).identity for trial in jobs.plan.searches.trials(jobs.plan.searches.runs[0])]
        for jobs in (few, more)
    ]
    assert identities[1][:4] == identities[0]
    assert len(set(identities[1])) == 8
    choices = [jobs.of("choose", jobs.plan.searches.runs[0]).identity for jobs in (few, more)]
    assert choices[0] != choices[1]
    written = [
        jobs.training(next(run for run in jobs.plan.runs if run.method == "kd")).identity for jobs in (few, more)
    ]
    assert written[0] == written[1]


def test_a_search_changes_no_job_of_the_methods_as_written():
    searched, plain = plan_of("ce", "kd", "at"), plan_of("ce", "kd", "at", search=None)
    plain = Plan(plain.experiment.model_copy(update={"search": None}))
    for run in plain.runs:
        for rule in ("train_student", "evaluate"):
            assert Jobs(searched).of(rule, run).identity == Jobs(plain).of(rule, run).identity


def test_the_pre_stage_is_made_once_for_all_trials_of_a_teacher():
    plan = plan_of("ft")
    jobs, (search,) = Jobs(plan), plan.searches.runs
    folders = {
        jobs_before(jobs, jobs.training(one))["pretrain_method"][0].folder for one in plan.searches.trials(search)
    }
    assert folders == {"results/unit/digits/pretrain/resnet20/ft/seed1000"}
    own = next(run for run in plan.runs if run.method == "ft_searched")
    (made,) = jobs_before(jobs, jobs.training(own))["pretrain_method"]
    assert made.folder == "results/unit/digits/pretrain/resnet20/ft/seed0"


def test_what_a_search_took_counts_in_its_row():
    plan = plan_of("ce", "ft")
    found = {
        (row["method"], row["seed"]): row["prestage_paths"] for row in rows(Jobs(plan)) if row["kind"] != "teacher"
    }
    home = "results/unit/digits"
    assert found["ce", 0] == []
    assert found["ce_searched", 0] == [f"{home}/none--resnet8/ce_searched.trial{k}/seed1000" for k in (1, 2, 3, 4)]
    assert found["ft", 0] == [f"{home}/pretrain/resnet20/ft/seed0"]
    assert set(found["ft_searched", 0]) == {
        *(f"{home}/pretrain/resnet20/ft/seed{seed}" for seed in (0, 1000)),
        f"{home}/teachers/resnet20/seed1000",
        *(f"{home}/resnet20--resnet8/ft_searched.trial{k}/seed1000" for k in (1, 2, 3, 4)),
    }


def test_the_most_expensive_row_is_one_as_written():
    plan = plan_of("ce", "ce_matched", "kd", search={"methods": ["ce", "kd"]})
    assert plan.variants["ce_matched"].compute_of == ("ce", "kd")


def test_pairs_that_share_a_student_without_teacher_search_it_once():
    pairs = [PAIR, {"teachers": ["wrn_16_1"], "student": "resnet8"}]
    plan = plan_of("ce", "kd", pairs=pairs)
    assert [(search.team, search.method) for search in plan.searches.runs] == [
        ("none--resnet8", "ce_searched"),
        ("resnet20--resnet8", "kd_searched"),
        ("wrn_16_1--resnet8", "kd_searched"),
    ]


# --- what cannot be meant -----------------------------------------------------------------------------------------

TAKD = {"method": "takd", "assistants": ["resnet14"]}
REFUSED = {
    "seed of the runs": (["kd"], {"seed": 1}, r"search\.seed: 1 is one of seeds"),
    "unknown method": (["kd"], {"methods": ["kdd"]}, "unknown method in search.methods 'kdd': did you mean 'kd'"),
    "method named twice": (["kd"], {"methods": ["kd", "kd"]}, r"search\.methods: kd is listed twice"),
    "half-stages": (["kd", "asib"], {}, "search: asib is a chain of jobs and cannot be searched: list the others"),
    "chain of runs": (["kd", TAKD], {}, "search: takd is a chain of jobs"),
    "matched compute": (["kd", "ce_matched"], {}, "search: ce_matched trains for what other runs took"),
    "control": ([{"method": "at", "matched": True}], {"methods": ["at_matched"]}, "unknown method in search.methods"),
    "nothing to search": (["ce"], {"recipe": {"lr": None, "weight_decay": None}}, "search: ce has nothing to search"),
    "unknown card": (["kd"], {"ranges": {"at": {"at_weight": {"log": [1, 2]}}}}, "unknown card in search.ranges 'at'"),
    "unknown setting": (
        ["kd"],
        {"ranges": {"kd": {"temp": {"log": [1, 2]}}}},
        "unknown setting of method kd in search",
    ),
    "list": (["at"], {"ranges": {"at": {"student_taps": {"choices": ["stem"]}}}}, "a list, a length in epochs"),
    "length": (["dkd"], {"ranges": {"dkd": {"warmup_epochs": {"linear": [1, 4]}}}}, "a list, a length in epochs"),
    "pre-stage": (["ft"], {"ranges": {"ft": {"rate": {"linear": [0.2, 1]}}}}, "ft has a pre-stage .* are ft_weight"),
    "text on a scale": (["at"], {"ranges": {"at": {"form": {"linear": [0, 1]}}}}, "is no number: give choices"),
    "wrong choice": (["at"], {"ranges": {"at": {"form": {"choices": ["codes"]}}}}, "did you mean 'code'"),
    "not whole": (["at"], {"ranges": {"at": {"p": {"linear": [1, 2.5]}}}}, "give whole numbers, found"),
    "beyond the card": (["kd"], {"ranges": {"kd": {"temperature": {"linear": [0, 4]}}}}, "above 0 to 1000, found 0"),
    "infinite multiple": (["crd"], {"ranges": {"crd": {"negatives": {"times": [1, 1e308]}}}}, "1000000000, found inf"),
    "infinite span": (
        ["crd"],
        {"ranges": {"crd": {"negatives": {"linear": [-1e308, 1e308]}}}},
        r"search\.ranges\.crd\.negatives: must be a whole number from 1",
    ),
    "span of a number": (
        ["kd"],
        {"ranges": {"kd": {"temperature": {"linear": [-1e308, 1e308]}}}},
        r"above 0 to 1000, found -1e\+308",
    ),
    "times null": (["sdd"], {"ranges": {"sdd": {"sdd_weight": {"times": [0.5, 2]}}}}, "times has nothing to multiply"),
    "smoothing of 1": (["kd"], {"recipe": {"label_smoothing": {"linear": [0, 40]}}}, "trial 2 of kd: recipe.label_smo"),
    "two scales": (["kd"], {"ranges": {"kd": {"temperature": {"log": [1, 2], "linear": [1, 2]}}}}, "found log, linear"),
    "no scale": (
        ["kd"],
        {"ranges": {"kd": {"temperature": {}}}},
        "give one of log, linear, times, choices, found none",
    ),
    "downwards": (["kd"], {"recipe": {"lr": {"log": [2, 1]}}}, "log goes from a number to a larger one"),
    "logarithm of 0": (["kd"], {"recipe": {"lr": {"log": [0, 1]}}}, "log begins above 0"),
    "choices twice": (["kd"], {"ranges": {"kd": {"temperature": {"choices": [2, 2]}}}}, "choices must differ"),
    "momentum": (
        [{"name": "dot_kd", "combine": ["kd", "dot"]}],
        {"ranges": {"dot": {"delta": {"linear": [0.2, 0.4]}}}},
        "search, trial 2 of dot_kd: recipe.momentum less and plus delta",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_searched_is_told(case):
    methods, search, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence):
        plan_of(*methods, search=search)


def test_names_of_searched_rows_are_taken():
    with pytest.raises(UserError, match=r"two variants are named 'kd_searched' \(kd_searched is kd with searched"):
        plan_of("kd", {"method": "kd", "name": "kd_searched"})
    with pytest.raises(UserError, match=r"two variants are named 'kd_searched\.trial2'"):
        plan_of("kd", {"method": "kd", "name": "kd_searched.trial2"})


def test_searched_rows_do_not_train_beside_others_nor_stand_on_an_axis():
    with pytest.raises(UserError, match="co_train: kd_searched waits for its search"):
        plan_of("kd", "at", co_train=["at", "kd_searched"])
    analysis = {"kind": "sweep", "variants": ["kd", "kd_searched"], "setting": "temperature"}
    with pytest.raises(UserError, match=r"report\.analysis: the settings of kd_searched"):
        plan_of("kd", report={"analysis": analysis})


def test_a_searched_row_can_be_a_reference():
    assert plan_of("kd", "at", report={"references": ["kd_searched"]}).experiment.report.references == ["kd_searched"]


# --- cards --------------------------------------------------------------------------------------------------------

ALONE = sorted(name for name, one in load_cards().items() if not one.chain and one.links == "none")


@pytest.mark.parametrize("name", [name for name in ALONE if load_cards()[name].compute == "recipe"])
def test_every_card_that_can_be_searched_has_ranges_that_fit_and_hold_its_default(name):
    one = load_cards()[name]
    ranges = {key: setting.search for key, setting in one.settings.items() if setting.search is not None}
    assert bool(ranges) == (name != "ce"), "what a search draws stands in the card"
    assert len(ranges) <= 4, "a random search of a few trials does not serve more"
    for key, where in ranges.items():
        ends = where.log or where.linear
        default = one.settings[key].default
        assert ends is not None
        assert default is None or ends[0] <= default <= ends[1], key
    entry = {"name": "it", "combine": ["kd", name]} if not one.alone else name
    assert plan_of(entry).searches


def test_the_check_looks_at_methods_as_written_and_at_the_split_of_the_trials():
    found = json.loads(checks_of(Jobs(plan_of("ce", "kd"))))
    assert [one["name"] for one in found] == [
        *("teacher resnet20", "teacher wrn_16_1", "methods.ce, resnet8", "methods.kd, resnet20 -> resnet8"),
    ]
    assert {tuple(one["seeds"]) for one in found} == {(0, 1, 1000)}

"""Controls: which kd row a method is compared with, whose compute it has, and what cannot have one."""

import json

import pytest

from kd.schema.cards import card, card_names
from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.jobs.reports import rows
from kd.study.plan import Plan
from kd.tools.errors import UserError

PAIR = {"teachers": ["resnet20", "wrn_16_1"], "student": "resnet8"}
TAKD = {"method": "takd", "assistants": ["resnet14"]}
DEFAULTS = {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0}


def plan_of(*methods, **changes) -> Plan:
    content = {
        "experiment": "unit",
        "datasets": {"digits": {"source": "digits"}},
        "pairs": [PAIR],
        "methods": list(methods),
        "seeds": [0],
        "recipe": {"epochs": 4},
    }
    return Plan(check_experiment({**content, **changes}))


def matched(method, **settings) -> dict:
    entry = {"method": method} if isinstance(method, str) else method
    return {**entry, **settings, "matched": True}


def control(method, beside=(), **settings):
    entry = matched(method, **settings)
    plan = plan_of(*beside, entry)
    return plan.variants[f"{entry.get('name', entry.get('method'))}_matched"]


# method, its settings -> what its control is told (worked out by hand from the losses in the cards)
EXPECTED = {
    "dkd": ("dkd", {}, {"ce_weight": 1.0, "kd_weight": 9.0, "temperature": 4.0}),
    "dkd of other weights": (
        "dkd",
        {"dkd_weight": 2.0, "alpha": 0.5, "beta": 2.0, "temperature": 2.0},
        {"ce_weight": 1.0, "kd_weight": 5.0, "temperature": 2.0},
    ),
    "kd_logit_std": ("kd_logit_std", {}, {"ce_weight": 0.1, "kd_weight": 9.0, "temperature": 2.0}),
    "ttm": ("ttm", {}, {"ce_weight": 1.0, "kd_weight": 45.0, "temperature": 1.0}),
    "ctkd": ("ctkd", {}, DEFAULTS),
    "dist": ("dist", {}, DEFAULTS),
    "at": ("at", {}, DEFAULTS),
    "crd": ("crd", {}, DEFAULTS),
    "hint": ("hint", {}, DEFAULTS),
    "hint in two stages": (
        "hint",
        {"two_stage": True},
        {"ce_weight": 1.0, "kd_weight": 2.5 / 9, "temperature": 3.0},
    ),
    "ab with kd": ("ab", {"kd_weight": 2.0}, {"ce_weight": 1.0, "kd_weight": 2.0, "temperature": 4.0}),
    "srrl": ("srrl", {}, {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 4.0}),
    "dml": ("dml", {}, {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 1.0}),
    "ca_mkd": ("ca_mkd", {}, {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 4.0}),
    "ckd": ("ckd", {}, {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 4.0}),
    "ckd by squares": ("ckd", {"criterion": "mse"}, DEFAULTS),
    "asib": ("asib", {}, {"ce_weight": 0.3, "kd_weight": 0.7, "temperature": 4.0}),
    "takd of its last run": (
        TAKD,
        {"kd_weight": [1.0, 3.0]},
        {"ce_weight": 0.1, "kd_weight": 3.0, "temperature": 4.0},
    ),
    "tekap": ("tekap", {}, {"ce_weight": 0.1, "kd_weight": 3.06, "temperature": 4.0}),
    "rld": ("rld", {}, {"ce_weight": 1.0, "kd_weight": 9.0, "temperature": 4.0}),
    "abkd": ("abkd", {}, {"ce_weight": 1.0, "kd_weight": 2.0, "temperature": 4.0}),
    "nkd": ("nkd", {}, {"ce_weight": 1.0, "kd_weight": 1 / 9 + 3.5, "temperature": 3.0}),
    "normkd": ("normkd", {}, DEFAULTS),
    "sdd": ("sdd", {}, DEFAULTS),
    "sdd of dkd": ("sdd", {"base": "dkd"}, {"ce_weight": 1.0, "kd_weight": 9.0, "temperature": 4.0}),
    "sdd without labels": ("sdd", {"ce_weight": 0.0}, {**DEFAULTS, "ce_weight": 0.0}),
    "sdd of given weights": (
        "sdd",
        {"sdd_weight": 2.0, "ce_weight": 0.5},
        {"ce_weight": 0.5, "kd_weight": 2.0, "temperature": 4.0},
    ),
    "wkd_l": ("wkd_l", {}, DEFAULTS),
    "hard_kd": ("hard_kd", {}, {"ce_weight": 0.5, "kd_weight": 0.5, "temperature": 1.0}),
    "token_kd": ("token_kd", {}, {"ce_weight": 0.5, "kd_weight": 0.5, "temperature": 1.0}),
    "srd": ("srd", {}, {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 1.0}),
    "semckd": ("semckd", {}, {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 4.0}),
    "ofa": ("ofa", {"temperature": 2.0}, {"ce_weight": 1.0, "kd_weight": 0.25, "temperature": 2.0}),
    "nd beside kd": (
        {"name": "kd_nd", "combine": [{"method": "kd", "ce_weight": 1.0}, {"method": "nd", "ce_weight": 0.0}]},
        {},
        {"ce_weight": 1.0, "kd_weight": 0.9, "temperature": 4.0},
    ),
    "ickd": ("ickd", {}, {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 4.0}),
    "both": (
        {"name": "both", "combine": ["crd", "kd"]},
        {},
        {"ce_weight": 1.1, "kd_weight": 0.9, "temperature": 4.0},
    ),
    "optimiser": ({"name": "dot_kd", "combine": ["kd", "dot"]}, {}, DEFAULTS),
    "features together": ({"name": "maps", "combine": ["at", "sp"]}, {}, DEFAULTS),
}


@pytest.mark.parametrize(("method", "settings", "told"), EXPECTED.values(), ids=EXPECTED.keys())
def test_a_control_has_the_weight_of_its_methods_divergences(method, settings, told):
    found = control(method, **settings)
    ((reference, own),) = found.parts
    assert reference == "kd"
    assert own == pytest.approx(told)


def test_a_control_of_two_views_sees_two_of_the_same_kind():
    ((reference, own),) = control("crld").parts
    assert (reference, own["kd_weight"], own["ce_weight"], own["views"]) == ("kd_views", 5.0, 2.0, 2)
    assert own["strong_cutout"] == 0.5
    ((reference, own),) = control("mlkd", instance_weight=0.5, strong_ops=3).parts
    assert reference == "kd_views"
    told = {"ce_weight": 0.2, "kd_weight": 5.0, "temperature": 4.0, "views": 2, "strong_ops": 3}
    assert own == pytest.approx({**told, "strong_magnitude": 10, "strong_cutout": 0.0})


def test_a_control_has_its_methods_recipe_teacher_and_place_behind_it():
    plan = plan_of("ce", matched("dkd", teacher="wrn_16_1", recipe={"lr": 0.01}), "at")
    assert list(plan.variants) == ["ce", "dkd", "dkd_matched", "at"]
    found = plan.variants["dkd_matched"]
    assert (found.teacher, found.recipe, found.compute_of) == ("wrn_16_1", {"lr": 0.01}, ("dkd",))
    plain = plan_of({"method": "dkd", "matched": False})
    assert list(plain.variants) == ["dkd"]


@pytest.mark.parametrize("name", [name for name in card_names() if name not in {"kd", "kd_views", "dot"}])
def test_every_card_has_a_control_or_a_sentence(name):
    """Those that distil something have one whose settings its card allows."""
    beside = ["ce"] if name == "born_again" else []
    entry = TAKD if name == "takd" else {"method": name}
    if card(name).family == "baseline":
        with pytest.raises(UserError, match=f"matched: {name} distils nothing"):
            control(entry, beside)
        return
    ((reference, settings),) = control(entry, beside).parts
    assert settings["kd_weight"] > 0
    assert card(reference).resolve(settings, "") is not None


def told(jobs: Jobs, method: str):
    (run,) = [run for run in jobs.plan.runs if run.method == method]
    job = jobs.training(run)
    return json.loads(job.settings)["budget"], [file.split("/digits/")[1] for file in job.inputs["budget"]], job


def test_a_control_reads_what_its_method_and_all_that_was_made_for_it_took():
    jobs = Jobs(plan_of("ce", matched("ft"), matched(TAKD), matched("asib"), matched("avg_kd"), "kd"))
    team = "resnet20--resnet8"
    budget, files, job = told(jobs, "ft_matched")
    assert files == [f"{team}/ft/seed0/run.json", "pretrain/resnet20/ft/seed0/run.json"]
    assert budget == {"rows": [2], "own": 0, "flops": None, "recipe_epochs": None}
    (ft,) = [run for run in jobs.plan.runs if run.method == "ft"]
    assert jobs.training(ft) in job.after
    assert told(jobs, "takd_matched")[1] == [
        f"{team}/takd/seed0/run.json",
        "resnet20--resnet14/takd.hop1/seed0/run.json",
    ]
    assert told(jobs, "asib_matched")[1] == ["resnet20+wrn_16_1--resnet8/asib/seed0/run.json"]
    assert told(jobs, "avg_kd_matched")[1] == ["resnet20+wrn_16_1--resnet8/avg_kd/seed0/run.json"]
    assert told(jobs, "kd")[:2] == (None, [])


def test_what_was_made_for_a_control_itself_is_spent_already():
    """Outputs on one fixed view are asked for once, and cost its method and its control the same."""
    jobs = Jobs(plan_of(matched("dkd"), recipe={"epochs": 4, "teacher_view": "fixed"}))
    budget, files, _ = told(jobs, "dkd_matched")
    assert (budget["rows"], budget["own"]) == ([2], 1)
    assert files[1:] == ["teacher_outputs/resnet20/seed0/run.json"] * 2


def test_cross_entropy_has_the_compute_of_every_row_that_is_no_control():
    jobs = Jobs(plan_of("ce_matched", "ce", matched("ft"), "kd"))
    budget, files, _ = told(jobs, "ce_matched")
    assert budget["rows"] == [1, 2, 1]
    assert [file.split("/")[-3] for file in files] == ["ce", "ft", "ft", "kd"]
    assert told(Jobs(plan_of("ce_matched")), "ce_matched")[0] is None


def test_pairs_that_share_a_control_give_it_the_most_that_one_of_theirs_took():
    pairs = [PAIR, {"teachers": ["resnet20", "vgg8"], "student": "resnet8"}]
    jobs = Jobs(plan_of(matched("avg_kd"), matched("dml"), pairs=pairs))
    assert told(jobs, "avg_kd_matched")[0]["rows"] == [1, 1]
    assert told(jobs, "dml_matched")[0]["rows"] == [1]


def test_everything_is_checked_before_the_first_training_once():
    jobs = Jobs(plan_of("ce_matched", matched("ft"), matched(TAKD), matched("asib"), "ce"))
    checks = json.loads(jobs.of("check_pairs").settings)
    names = [(one["name"].split(",")[0], one["part"]) for one in checks]
    assert len(set(names)) == len(names)
    assert {("methods.ft", "pre-stage"), ("methods.ft_matched", ""), ("methods.ce_matched", "")} <= set(names)
    assert [name for name, part in names if part == "pre-stage"] == ["methods.ft"]


def test_the_work_of_a_budget_is_asked_for_with_room():
    jobs = Jobs(plan_of("kd", matched("dkd"), recipe={"epochs": 4000}))
    assert told(jobs, "dkd_matched")[2].work.minutes > 2 * told(jobs, "kd")[2].work.minutes


def test_controls_are_rows_like_others():
    found = {
        row["method"]: row["kind"] for row in rows(Jobs(plan_of("kd", matched("dkd")))) if row["teachers"] != "none"
    }
    assert found == {"kd": "student", "dkd": "student", "dkd_matched": "control"}
    plan = plan_of("kd", matched("dkd"), report={"references": ["dkd_matched"]})
    assert plan.experiment.report.references == ["dkd_matched"]


def test_any_row_may_have_the_compute_of_another():
    long = {"method": "avg_kd", "name": "avg_long", "compute_of": "asib", "recipe": {"lr": 0.01}}
    jobs = Jobs(plan_of("asib", long, "avg_kd", {"method": "ft", "name": "ft_long", "compute_of": "avg_kd"}))
    budget, files, _ = told(jobs, "avg_long")
    assert (budget["rows"], budget["own"]) == ([1], 0)
    assert files == ["resnet20+wrn_16_1--resnet8/asib/seed0/run.json"]
    budget, files, _ = told(jobs, "ft_long")  # its pre-stage is spent already
    assert (budget["rows"], budget["own"]) == ([1], 1)
    assert files[1:] == ["pretrain/resnet20/ft_long/seed0/run.json"]
    assert jobs.plan.variants["avg_long"].recipe == {"lr": 0.01}
    found = {row["method"]: row["kind"] for row in rows(jobs) if row["teachers"] != "none"}
    assert found == dict.fromkeys(("asib", "avg_long", "avg_kd", "ft_long"), "student")


def test_rows_of_anothers_compute_are_not_among_those_whose_most_cross_entropy_has():
    jobs = Jobs(plan_of("kd", "ce_matched", {"method": "ce", "name": "long", "compute_of": "kd"}))
    assert told(jobs, "ce_matched")[0]["rows"] == [1]


LONG = {"method": "kd", "name": "long", "compute_of": "at"}

REFUSED = {
    "compute of nothing": ([LONG, "sp"], {}, r"unknown method in methods\[0\].compute_of 'at': did you mean .*|.*sp"),
    "compute of itself": (
        [{**LONG, "compute_of": "long"}, "at"],
        {},
        r"unknown method in methods\[0\].compute_of 'long'",
    ),
    "compute of one that has another's": (
        [LONG, "at", {"method": "sp", "compute_of": "long"}],
        {},
        r"unknown method in methods\[2\].compute_of 'long'",
    ),
    "compute of the most": (["at", {"method": "ce_matched", "compute_of": "at"}], {}, "most expensive row: drop it"),
    "compute of a number": ([{**LONG, "compute_of": 3}, "at"], {}, r"methods\[0\].compute_of: "),
    "compute, in stages": (
        ["at", {"method": "ab", "compute_of": "at"}],
        {},
        "ab trains in stages, so its epochs alone",
    ),
    "compute, hints first": (
        ["at", {"method": "hint", "two_stage": True, "compute_of": "at"}],
        {},
        "hint trains in stages",
    ),
    "compute, a chain": (["at", {"method": "asib", "compute_of": "at"}], {}, "asib trains in stages"),
    "compute, links": (["at", {**TAKD, "compute_of": "at"}], {}, "takd trains in stages"),
    "compute and a control": (
        [{"method": "sp", "compute_of": "at", "matched": True}, "at"],
        {},
        "no control of its own",
    ),
    "compute, side by side": ([LONG, "at"], {"co_train": ["at", "long"]}, "long trains for what other runs took"),
    "compute, under plateau": (
        [LONG, "at"],
        {"recipe": {"epochs": 4, "schedule": "plateau", "patience": 2}},
        "long trains for what other runs took, but recipe.schedule plateau",
    ),
    "compute, searched": (
        [LONG, "at"],
        {"search": {"trials": 2, "methods": ["long"]}},
        "long trains for what other runs",
    ),
    "not a switch": ([matched("dkd") | {"matched": "yes"}], {}, r"methods\[0\].matched: must be true or false"),
    "cross-entropy": (["kd", matched("ce")], {}, r"methods\[1\].matched: ce distils nothing: ce_matched is"),
    "kd": ([matched("kd")], {}, "kd is what a control is"),
    "its views": ([matched("kd_views")], {}, "kd_views is what a control is"),
    "name taken": (
        [matched("dkd"), {"method": "kd", "name": "dkd_matched"}],
        {},
        r"two variants are named 'dkd_matched' \(dkd_matched is the control of dkd\): give one of them another name",
    ),
    "name too long": ([matched("dkd", name="x" * 95)], {}, r"methods\[0\].matched: must be a name of 1 to 100"),
    "part": ([{"name": "both", "combine": [matched("at"), "kd"]}], {}, "unknown setting of method at .* 'matched'"),
    "side by side": (
        ["kd", matched("dkd")],
        {"co_train": ["kd", "dkd_matched"]},
        "co_train: dkd_matched trains for what other runs took",
    ),
    "all side by side": (["kd", "ce_matched"], {"co_train": ["ce_matched", "kd"]}, "ce_matched trains for what other"),
    "origin": (
        ["ce_matched", {"method": "born_again", "origin": "ce_matched"}],
        {},
        "unknown method in .*origin 'ce_matched'",
    ),
    "plateau": (
        [matched("dkd")],
        {"recipe": {"epochs": 4, "schedule": "plateau", "patience": 2}},
        "the control of dkd.*: dkd_matched trains for what other runs took, but recipe.schedule plateau ends when",
    ),
}


@pytest.mark.parametrize(("methods", "changes", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_matched_is_one_sentence(methods, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        plan_of(*methods, **changes)


OWN = """
name: own_kd
title: A method of one's own
family: {family}
paper: {{title: None, authors: A. Nobody, year: 2026}}
loss: "L = CE"
module: own.py
teachers: one
{control}settings:
  ce_weight: {{type: float, default: 0.5, doc: Weight.}}
  one_weight: {{type: float, default: 2.0, doc: Weight.}}
  two_weight: {{type: float, default: 3.0, doc: Weight.}}
"""


@pytest.mark.parametrize(
    ("family", "line", "told"),
    [
        ("logits", "", {"ce_weight": 0.5, "kd_weight": 5.0, "temperature": 4.0}),
        ("features", "", DEFAULTS),
        ("features", 'control: {weight: "2 * one_weight"}\n', {"ce_weight": 0.5, "kd_weight": 4.0, "temperature": 4.0}),
    ],
    ids=["logits", "features", "said"],
)
def test_a_card_of_ones_own_has_a_control_too(tmp_path, family, line, told):
    path = tmp_path / "own.yaml"
    path.write_text(OWN.format(family=family, control=line), encoding="utf-8")
    (tmp_path / "own.py").write_text("class Own: ...\n", encoding="utf-8")
    found = plan_of({"card": str(path), "matched": True}).variants["own_kd_matched"]
    assert found.parts[0][1] == pytest.approx(told)


def test_a_card_whose_control_names_no_setting_is_refused(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN.format(family="logits", control='control: {weight: "three_weight"}\n'), encoding="utf-8")
    (tmp_path / "own.py").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"unknown setting in control.weight 'three_weight': did you mean"):
        plan_of({"card": str(path)})

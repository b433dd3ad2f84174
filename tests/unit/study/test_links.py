"""Chains of runs: which runs there are, who teaches whom, what an edit makes stale, what is refused."""

import json
from pathlib import Path

import pytest
from told import taught_from, told

from kd.schema.cards import card, load_cards
from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.jobs.reports import rows
from kd.study.links import links_of
from kd.study.plan import Plan
from kd.tools.errors import UserError

BASE = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet20", "wrn_16_1"], "student": "resnet8"}],
    "seeds": [0, 3],
    "recipe": {"epochs": 4},
}
HOME = "results/unit/digits"


def plan_of(*methods, **changes):
    return Plan(check_experiment({**BASE, "methods": list(methods), **changes}))


def born_again(**settings):
    return plan_of("ce", {"method": "born_again", **settings})


def takd(*assistants, **settings):
    return plan_of("kd", {"method": "takd", "assistants": list(assistants), **settings})


def by_path(plan, seed=0):
    """Runs of one seed by their path below the data set, without the seed."""
    found = {run.path: run for run in plan.runs if run.seed == seed}
    return {path.removeprefix("digits/").removesuffix(f"/seed{seed}"): run for path, run in found.items()}


def jobs(plan):
    found = {path: Jobs(plan).of("train_student", run) for path, run in by_path(plan).items()}
    return {path: (job.settings, job.code) for path, job in found.items()}


def changed(before, after):
    """Return the paths whose job is told something else, and those that are new."""
    old, new = jobs(before), jobs(after)
    return {path for path in old if path in new and old[path] != new[path]}, set(new) - set(old)


def test_a_generation_learns_from_the_one_before_and_the_first_from_ce():
    plan = born_again(generations=3)
    runs = by_path(plan, seed=3)
    generations = [f"none--resnet8/born_again.gen{g}" for g in (1, 2, 3)]
    assert list(runs) == ["none--resnet8/ce", *generations]
    for before, path in zip(runs, generations, strict=False):
        assert taught_from(plan, runs[path]) == [f"{HOME}/{before}/seed3"]
        job = json.loads(told(plan, "train_student", runs[path]))
        assert [teacher["arch"] for teacher in job["teachers"]] == ["resnet8"]
        assert (job["seed"], job["split_seed"]) == (3, 3)


def test_assistants_stand_between_teacher_and_student():
    plan = takd("resnet14", "resnet8x4")
    runs = by_path(plan)
    chain = ["resnet20--resnet14/takd.hop1", "resnet20--resnet8x4/takd.hop2", "resnet20--resnet8/takd"]
    assert list(runs) == ["resnet20--resnet8/kd", *chain]
    teachers = [f"{HOME}/{path}/seed0" for path in ("teachers/resnet20", *chain[:-1])]
    assert [taught_from(plan, runs[path]) for path in chain] == [[folder] for folder in teachers]
    jobs = [json.loads(told(plan, "train_student", runs[path])) for path in chain]
    assert [job["teachers"][0]["arch"] for job in jobs] == ["resnet20", "resnet14", "resnet8x4"]
    assert [job["student"]["arch"] for job in jobs] == ["resnet14", "resnet8x4", "resnet8"]


def test_a_named_teacher_begins_the_chain():
    plan = takd("resnet14", teacher="wrn_16_1")
    assert {"wrn_16_1--resnet14/takd.hop1", "wrn_16_1--resnet8/takd"} < set(by_path(plan))


def test_any_student_of_the_experiment_may_be_the_first_teacher():
    plan = plan_of({"method": "born_again", "origin": "mine", "generations": 1}, {"method": "kd", "name": "mine"})
    runs = by_path(plan)
    assert set(runs) == {"resnet20--resnet8/mine", "resnet20--resnet8/born_again.gen1"}
    run = runs["resnet20--resnet8/born_again.gen1"]
    assert taught_from(plan, run) == [f"{HOME}/resnet20--resnet8/mine/seed0"]


def test_pairs_share_the_links_that_they_have_in_common():
    pairs = [{"teachers": ["resnet20"], "student": student} for student in ("resnet8", "wrn_16_1")]
    plan = plan_of({"method": "takd", "assistants": ["resnet14"]}, pairs=pairs)
    tails = {path.removeprefix("resnet20--") for path in by_path(plan)}
    assert tails == {"resnet14/takd.hop1", "resnet8/takd", "wrn_16_1/takd"}


@pytest.mark.parametrize("key", ["temperature", "kd_weight", "ce_weight"])
def test_a_setting_of_generation_two_leaves_the_first_as_it_was(key):
    stale, new = changed(born_again(generations=3), born_again(generations=3, **{key: [card_default(key), 0.5, 0.5]}))
    assert stale == {"none--resnet8/born_again.gen2", "none--resnet8/born_again.gen3"}
    assert not new


def card_default(key):
    return card("born_again").settings[key].default


def test_settings_of_a_hop_change_that_hop_alone():
    stale, new = changed(takd("resnet14"), takd("resnet14", temperature=[4.0, 2.0]))
    assert (stale, new) == ({"resnet20--resnet8/takd"}, set())


def test_more_generations_and_assistants_keep_those_that_there_are():
    assert changed(born_again(generations=1), born_again(generations=3)) == (
        set(),
        {"none--resnet8/born_again.gen2", "none--resnet8/born_again.gen3"},
    )
    stale, new = changed(takd("resnet14"), takd("resnet14", "resnet8x4"))
    assert (stale, new) == ({"resnet20--resnet8/takd"}, {"resnet20--resnet8x4/takd.hop2"})


@pytest.mark.parametrize("make", [born_again, lambda: takd("resnet14")], ids=["born_again", "takd"])
def test_a_job_is_told_what_its_loss_reads_and_nothing_of_the_chain(make):
    plan = make()
    linked = [run for run in plan.runs if plan.variants[run.method].linked]
    assert linked
    for run in linked:
        (part,) = json.loads(told(plan, "train_student", run))["method"]
        assert set(part["settings"]) == {"ce_weight", "kd_weight", "temperature"}


def test_the_ensemble_is_of_the_generations_and_can_be_left_out():
    plan = born_again(generations=2)
    *_, last = by_path(plan).values()
    assert [run.path for run in plan.ensemble_runs(last)] == ["digits/none--resnet8/born_again.gen1/seed0"]
    for other in (born_again(generations=2, ensemble=False), takd("resnet14")):
        assert not any(other.ensemble_runs(run) for run in other.runs)


def test_the_variants_row_is_the_last_run_and_costs_all_before_it():
    plan = plan_of("ce", {"method": "born_again", "generations": 2}, {"method": "takd", "assistants": ["resnet14"]})
    found = {row["method"]: row for row in rows(Jobs(plan)) if row["seed"] == 0 and row["method"] != "teacher"}
    kinds = {method: row["kind"] for method, row in found.items()}
    assert kinds == {
        **{"ce": "student", "born_again.gen1": "link", "born_again": "student"},
        **{"takd.hop1": "link", "takd": "student"},
    }
    folders = {method: row["path"] for method, row in found.items()}
    assert folders["born_again"] == f"{HOME}/none--resnet8/born_again.gen2/seed0"
    assert found["born_again"]["prestage_paths"] == [folders["ce"], folders["born_again.gen1"]]
    assert found["takd"]["prestage_paths"] == [folders["takd.hop1"]]
    assert found["takd"]["teacher_paths"] == [f"{HOME}/teachers/resnet20/seed0"]
    assert found["takd.hop1"]["student"] == "resnet14"
    assert found["takd"]["taught_by"] == [folders["takd.hop1"]]


def test_a_chain_from_a_distilled_student_costs_that_students_teacher_and_pre_stage():
    plan = plan_of("ft", {"method": "born_again", "origin": "ft", "generations": 1})
    (row,) = [row for row in rows(Jobs(plan)) if row["method"] == "born_again" and row["seed"] == 0]
    assert row["teacher_paths"] == [f"{HOME}/teachers/resnet20/seed0"]
    assert row["prestage_paths"] == [f"{HOME}/pretrain/resnet20/ft/seed0", f"{HOME}/resnet20--resnet8/ft/seed0"]


def test_one_teacher_for_all_seeds_still_gives_a_chain_a_seed():
    plan = plan_of("ce", {"method": "born_again", "generations": 1}, teacher_seed=7)
    run = by_path(plan, seed=3)["none--resnet8/born_again.gen1"]
    assert taught_from(plan, run) == [f"{HOME}/none--resnet8/ce/seed3"]
    assert '"split_seed":7' in told(plan, "train_student", run)


@pytest.mark.parametrize(
    ("methods", "changes", "sentence"),
    [
        ([{"method": "takd"}], {}, r"methods\[0\].assistants: give one network or more, each once, found \[\]"),
        ([{"method": "takd", "assistants": ["resnet14", "resnet14"]}], {}, "each once, found"),
        ([{"method": "takd", "assistants": ["resnet20"]}], {}, "resnet20 is a teacher or student of a pair already"),
        ([{"method": "takd", "assistants": ["resnet41"]}], {}, "unknown architecture 'resnet41': did you mean"),
        (
            [{"method": "takd", "assistants": ["timm:resnet18"]}],
            {},
            "give the architecture 'timm:resnet18' a name",
        ),
        ([{"method": "born_again"}], {}, r"unknown method in methods\[0\].origin 'ce'"),
        (["ce", {"method": "born_again", "origin": "born_again"}], {}, "unknown method in .*origin 'born_again'"),
        (["ce", {"method": "born_again", "teacher": "resnet20"}], {}, r"methods\[1\].teacher: born_again learns from"),
        (["ce", {"method": "born_again", "generations": 0}], {}, "a whole number from 1 to 99, found 0"),
        (["ce", {"method": "born_again", "kd_weight": [1.0, 0.5]}], {}, r"\.kd_weight: give one value or 3, .*found 2"),
        (
            ["ce", "born_again", {"method": "kd", "name": "born_again.gen2"}],
            {},
            "variants are named 'born_again.gen2'",
        ),
        (["ce", {"name": "x", "combine": ["born_again", "at"]}], {}, "chain of jobs cannot be combined"),
        (
            ["ce", "born_again"],
            {"co_train": ["ce", "born_again"]},
            "born_again is a chain of jobs and cannot",
        ),
        (
            ["ce", "born_again"],
            {"recipe": {"epochs": 4, "teacher_view": "fixed"}},
            "born_again trains its teachers",
        ),
    ],
)
def test_what_makes_no_chain_is_told_in_one_sentence(methods, changes, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        plan_of(*methods, **changes)
    assert "\n" not in str(raised.value)


PLANNED = [(name, key) for name, found in load_cards().items() for key, one in found.settings.items() if one.plan]
OTHER = {"generations": 2, "origin": "kd", "ensemble": False, "assistants": ["resnet8x4"]}


@pytest.mark.parametrize(("name", "key"), PLANNED)
def test_every_setting_that_the_plan_reads_changes_the_plan(name, key):
    def outline(**settings):
        needed = {"assistants": ["resnet14"]} if card(name).links == "assistants" else {}
        plan = plan_of("ce", "kd", {"method": name, **needed, **settings})
        return [(run.path, taught_from(plan, run), plan.ensemble_runs(run)) for run in plan.runs]

    assert outline(**{key: OTHER[key]}) != outline()


def test_links_are_given_in_the_order_of_teaching():
    settings = card("takd").resolve({"assistants": ["a", "b"], "temperature": [1.0, 2.0, 3.0]}, "here").model_dump()
    links = links_of("takd", settings, "here")
    assert [(one.suffix, one.network, one.settings["temperature"]) for one in links] == [
        (".hop1", "a", 1.0),
        (".hop2", "b", 2.0),
        ("", None, 3.0),
    ]
    assert all(set(one.settings) == {"ce_weight", "kd_weight", "temperature"} for one in links)


def test_the_example_is_an_experiment():
    from kd.study.experiment import load_experiment

    experiment = load_experiment(Path(__file__).parents[3] / "config" / "experiments" / "chains.yaml")
    assert sum(run.method.startswith(("takd", "born_again")) for run in Plan(experiment).runs) == 8

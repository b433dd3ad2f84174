"""Why a job is to run, in a line."""

import json
from pathlib import Path

import pytest
from recorded import end, failed

from kd.study import believed
from kd.study.job_plan import JobPlan
from kd.study.jobs.making import COMMAND
from kd.study.made import INTERRUPTED, KILLED, Note, finish
from kd.study.reasons import ASKED, NEW, Reason, names_of, reason_for, settings_changes, told_again
from kd.tools.files import write_json

SETTINGS = {
    "dataset": {"source": "digits", "subset_size": None},
    "student": {"arch": "resnet8", "train": True},
    "teachers": [{"arch": "resnet14"}],
    "method": [{"card": "kd", "settings": {"temperature": 4.0}}],
    "recipe": {"epochs": 12, "lr": 0.1, "milestones": [6, 9]},
    "seed": 0,
    "budget": None,
}


@pytest.fixture(autouse=True)
def fresh_look() -> None:
    believed._is_made_now.cache_clear()
    believed.is_settled.cache_clear()


def job_of(folder: Path, settings=SETTINGS, code="code", **more) -> JobPlan:
    return JobPlan("train_student", str(folder), json.dumps(settings), code, title="kd: a -> b, seed 0", **more)


def made(folder: Path, settings=SETTINGS, code="code", **more) -> JobPlan:
    job = job_of(folder, settings, code, **more)
    folder.mkdir(exist_ok=True)
    write_json(folder / "run.json", {"settings": settings, "digests": {"code": code}})
    finish(Note(Path(job.record), job.identity, (folder / "run.json",), code), None)
    return job


def why(job: JobPlan, before=(), now=()) -> Reason:
    return reason_for(job, dict(before), dict(now))


def changed(**changes) -> dict:
    return {**SETTINGS, **changes}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (changed(recipe={**SETTINGS["recipe"], "epochs": 15}), "recipe.epochs 12 -> 15"),
        (changed(method=[{"card": "kd", "settings": {"temperature": 2.0}}]), "temperature 4.0 -> 2.0"),
        (changed(teachers=[{"arch": "wrn_16_1"}]), 'teachers[0].arch "resnet14" -> "wrn_16_1"'),
        (changed(student={"arch": "resnet8"}), "student.train true -> none"),
        (changed(recipe={**SETTINGS["recipe"], "milestones": [8]}), "recipe.milestones [6, 9] -> [8]"),
        (changed(seed=1, split_seed=1), "seed 0 -> 1; split_seed none -> 1"),
    ],
)
def test_a_setting_that_changed_is_named_with_its_values(tmp_path, settings, text):
    made(tmp_path / "run")
    assert why(job_of(tmp_path / "run", settings)) == Reason(text)


def test_a_line_stays_a_line_however_much_changed(tmp_path):
    long = {f"key{i}": "x" * 1000 for i in range(50)}
    made(tmp_path / "run", changed(dataset=long))
    text = why(job_of(tmp_path / "run", changed(dataset=dict.fromkeys(long, "y" * 1000)))).text
    assert text.endswith("; 46 more")
    assert len(text) < 600


def test_combined_losses_say_whose_setting_it_is():
    parts = [{"card": "kd", "settings": {"temperature": t}} for t in (4.0, 2.0)]
    other = {"card": "at", "settings": {"at_weight": 1.0}}
    found = settings_changes(changed(method=[parts[0], other]), changed(method=[parts[1], other]))
    assert found == ["kd.temperature 4.0 -> 2.0"]


def test_a_card_that_is_gone_is_named_all_the_same():
    gone = {"card": "once/mine.yaml", "settings": {"temperature": 3.0}}
    assert settings_changes(changed(method=[gone]), SETTINGS) == ['methods "mine" -> "kd"', "temperature 3.0 -> 4.0"]
    both = [gone, {"card": "renamed", "settings": {"weight": 1.0}}]
    assert settings_changes(changed(method=both), SETTINGS)[0] == 'methods "mine + renamed" -> "kd"'


def test_the_recipe_of_a_budget_is_what_it_lasted_for_and_no_change():
    budget = {"rows": [1], "own": 0, "flops": None, "recipe_epochs": None}
    was = changed(budget={**budget, "flops": 5.0, "recipe_epochs": 12}, recipe={**SETTINGS["recipe"], "epochs": 31})
    assert settings_changes(was, changed(budget=budget)) == []


def test_code_that_changed_is_named_by_its_files(tmp_path):
    made(tmp_path / "run", code="old")
    sources = {"kd.methods.kd": "1", "kd.engine.optim": "2", COMMAND: "3"}
    after = {**sources, "kd.methods.kd": "4", "own/method.py": "5"}
    job = job_of(tmp_path / "run", code="new")
    assert why(job, {"old": sources}, {"new": after}).text == "code of kd/methods/kd.py, own/method.py"
    assert why(job, {}, {"new": after}).text == "its code"


def test_what_was_never_made_or_failed_says_so(tmp_path):
    job = job_of(tmp_path / "run")
    assert why(job) == NEW
    for reason, text in [
        ("diverged", "it failed before: diverged"),
        (INTERRUPTED, "it was interrupted"),
        (KILLED, "it was cut off"),
    ]:
        failed(tmp_path / "run", "train_student", reason, job.identity)
        assert why(job) == Reason(text)
    failed(tmp_path / "run", "train_student", "diverged", "another job")
    assert why(job) == NEW


def test_what_follows_names_what_it_follows_from(tmp_path):
    before = made(tmp_path / "teacher")
    run = made(tmp_path / "run", after=(before,))
    assert why(run) == ASKED
    again = job_of(tmp_path / "teacher", changed(seed=5))
    assert why(job_of(tmp_path / "run", after=(again,))) == Reason("it follows from kd: a -> b, seed 0", follows=True)
    end(again)
    believed._is_made_now.cache_clear()
    believed.is_settled.cache_clear()
    assert why(job_of(tmp_path / "run", after=(again,))) == Reason("what it reads was made anew")


def test_changed_images_files_and_weights_are_told(tmp_path, data):
    job = made(tmp_path / "run", given=("first",))
    assert why(job_of(tmp_path / "run", given=("second",))).text == "the file that it starts from"
    assert why(job_of(tmp_path / "run", given=("first",), data=str(data))).text == "its images are others"
    (tmp_path / "run" / "run.json").write_text("{}", encoding="utf-8")
    assert why(job).text == "its files are not those that were written"


def titled(*titles: str) -> list[JobPlan]:
    return [JobPlan("train_student", "run", "{}", "code", title=title) for title in titles]


@pytest.mark.parametrize(
    ("titles", "text"),
    [
        (["kd: a -> b, seed 0"], "kd: a -> b, seed 0"),
        ([f"kd: a -> b, seed {i}" for i in (2, 0, 1)], "kd: a -> b, seeds 0-2"),
        ([f"kd: a -> b, seed {i}" for i in (0, 5)], "kd: a -> b, seeds 0, 5"),
        (["the tables"], "the tables"),
        (["asib: a -> b, seed 1, stage 1 teacher update"], "asib: a -> b, stage 1 teacher update, seed 1"),
        ([f"{name}: a -> b, seed 0" for name in "vwxyz"], "v, w, x and 2 more (5 jobs)"),
    ],
)
def test_jobs_are_named_together(titles, text):
    assert names_of(titled(*titles)) == text


def test_causes_are_told_and_what_follows_is_counted():
    jobs = titled("kd: a -> b, seed 0", "kd: a -> b, seed 1", "at: a -> b, seed 0", "the tables")
    reasons = [Reason("recipe.lr 1 -> 2"), Reason("recipe.lr 1 -> 2"), NEW, Reason("it follows", follows=True)]
    assert told_again(zip(jobs, reasons, strict=True)) == [
        "Made again, and why:",
        "  kd: a -> b, seeds 0, 1: recipe.lr 1 -> 2",
        "  and 1 job that follows from these",
    ]
    assert told_again([(jobs[2], NEW), (jobs[3], ASKED)]) == []
    many = [(job, Reason(f"cause {i}")) for i, job in enumerate(titled(*[f"m{i}: a -> b, seed 0" for i in range(30)]))]
    assert len(told_again(many)) == 13
    assert told_again(many)[-1] == "  and 19 further causes"

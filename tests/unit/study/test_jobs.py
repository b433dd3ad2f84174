"""Every job as one thing: who teaches it, what it reads, and what changes what its result is made from."""

import json
import re
import shutil
from pathlib import Path

import pytest

from kd.formats.cifar import CIFARS
from kd.schema.cards import load_cards
from kd.study.experiment import check_experiment
from kd.study.jobs import RULES, Jobs
from kd.study.jobs.asib import halves
from kd.study.jobs.evaluations import steps
from kd.study.jobs.images import images_of
from kd.study.jobs.reports import rows
from kd.study.plan import Plan
from kd.study.resources import COMPANION_MB, UNKNOWN_SOURCE
from kd.tools.files import write_json

BASE = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet20", "wrn_16_1"], "student": "resnet8"}],
    "seeds": [0],
    "recipe": {"epochs": 400},
}
HOME = "results/unit/digits"
REPOSITORY = Path(__file__).parents[3]


def jobs_of(*methods, **changes) -> Jobs:
    return Jobs(Plan(check_experiment({**BASE, "methods": list(methods), **changes})))


def student(jobs: Jobs, method: str):
    (run,) = [run for run in jobs.plan.runs if run.method == method]
    return jobs.training(run)


def tuned(job) -> list[str]:
    return [file.removeprefix(f"{HOME}/tuned/").removesuffix("/choice.json") for file in job.inputs["tuned"]]


def test_each_run_of_a_chain_reads_how_its_own_student_and_its_own_teacher_run():
    """Long trainings measure their networks: assistants are in no pair, and a generation's teacher is its student."""
    jobs = jobs_of("ce", {"method": "takd", "assistants": ["resnet14"]}, {"method": "born_again", "generations": 2})
    assert tuned(student(jobs, "takd.hop1")) == ["resnet14", "resnet20"]
    assert tuned(student(jobs, "takd")) == ["resnet8", "resnet14"]
    for generation in (1, 2):
        assert tuned(student(jobs, f"born_again.gen{generation}")) == ["resnet8", "resnet8"]
    assert student(jobs, "takd").inputs["teachers"] == [f"{HOME}/resnet20--resnet14/takd.hop1/seed0/{BEST}"]
    assert student(jobs, "born_again.gen1").inputs["teachers"] == [f"{HOME}/none--resnet8/ce/seed0/{BEST}"]


BEST = "checkpoints/best.safetensors"
LONG = {"takd": {"assistants": ["resnet14"]}}


@pytest.mark.parametrize("name", [name for name, card in load_cards().items() if card.alone])
def test_every_methods_trainings_name_as_many_choices_as_they_have_networks(name):
    methods = dict.fromkeys(["ce", name])
    jobs = jobs_of(*({"method": method, **LONG.get(method, {})} for method in methods))
    for run in jobs.plan.runs:
        made = halves(jobs, run) if jobs.plan.variants[run.method].chain else [jobs.training(run)]
        for step in made:
            expected = 0 if jobs.plan.recipe_of(run).precision != "auto" else 1 + len(jobs.plan.taught(run).teachers)
            assert len(step.inputs["tuned"]) == expected


KINDS = {
    "links": {"methods": ["ce", {"method": "takd", **LONG["takd"]}, {"method": "born_again", "generations": 2}]},
    "plain": {"methods": ["ce", "kd", {"method": "kd", "name": "other", "teacher": "wrn_16_1"}]},
    "prepared": {"methods": ["ft", "ckd"]},
    "half_stages": {"methods": [{"method": "asib", "num_stages": 2}]},
    "teacher_dataset": {
        "methods": ["kd"],
        "datasets": {"digits": {"source": "digits"}, "few": {"source": "digits", "subset_size": 1000}},
        "teacher_dataset": "digits",
        "teacher_seed": 7,
    },
    "finished": {
        "methods": ["kd"],
        "models": {"resnet20": {"arch": "resnet20", "pretrained": "weights.safetensors", "train": False}},
    },
}


def arch_of(jobs: Jobs, network: str) -> str:
    return jobs.plan.model(network).arch


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_training_says_of_its_teachers_is_said_of_the_same_networks(kind):
    """Settings, weights, measurements, the jobs before it, the predictions it is compared with and its row."""
    jobs = Jobs(Plan(check_experiment({**BASE, **KINDS[kind]})))
    listed = {row["path"]: row for row in rows(jobs)}
    for run in jobs.plan.runs:
        teachers = jobs.plan.taught(run).teachers
        folders = [jobs.plan.place(teacher) for teacher in teachers]
        assert listed[jobs.plan.place(run)]["taught_by"] == folders
        first, *later = halves(jobs, run) if jobs.plan.variants[run.method].chain else [jobs.training(run)]
        for job in (first, *later):
            told = json.loads(job.settings)
            assert [one["arch"] for one in told["teachers"]] == [arch_of(jobs, one.network) for one in teachers]
            measured = [told["student"]["arch"], *(one["arch"] for one in told["teachers"])]
            choices = [arch_of(jobs, Path(file).parent.name) for file in job.inputs["tuned"]]
            assert choices == measured
        assert first.inputs["teachers"] == [f"{folder}/{BEST}" for folder in folders]
        trained = [job.folder for job in first.after if job.rule in {"train_teacher", "train_student", "asib_result"}]
        assert trained == folders
        assert all(job.inputs["teachers"] == [] for job in later), "the half-stage before has them"
        compared = jobs.of("evaluate", run).inputs["teacher"]
        assert compared == [f"{folder}/predictions.npz" for folder in folders[:1]]


def test_teachers_of_class_incremental_runs_are_measured_like_those_of_pairs():
    section = {"student": "resnet8", "teacher": "resnet14", "num_tasks": 5}
    section["strategies"] = [{"name": "taught", "targets": "teacher"}]
    jobs = jobs_of("ce", continual=section)
    (run,) = jobs.plan.continual.runs
    training = jobs.of("continual_run", run)
    assert training.inputs["teachers"] == [f"{HOME}/teachers/resnet14/seed0/{BEST}"]
    (teacher,) = [job for job in training.after if job.rule == "train_teacher"]
    assert tuned(teacher) == ["resnet14"]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_a_job_has_its_function(rule):
    text = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "rules").glob("*.smk"))
    assert re.search(rf"\brule (?:\w+ as )?{rule}\b", text)
    assert f'reads("{rule}"' in text


def identities(jobs: Jobs) -> dict[tuple[str, str, str], str]:
    """By method, rule and folder."""
    found = [(run.method, step) for run in jobs.plan.runs for step in steps(jobs, run)]
    return {(method, step.rule, step.folder): step.identity for method, step in found}


def changed(before: Jobs, after: Jobs) -> set[str]:
    old, new = identities(before), identities(after)
    return {name[0] for name in old if name in new and old[name] != new[name]}


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({}, set()),
        ({"description": "other words"}, set()),
        ({"report": {"weights": "last"}}, set()),
        ({"threads": 2}, set()),
        ({"co_train": ["kd", "hint"]}, set()),
        ({"co_train": ["kd", "hint"], "students_per_job": 2}, set()),
        ({"seeds": [0, 1]}, set()),
        ({"recipe": {"epochs": 401}}, {"ce", "kd", "hint", "asib"}),
        ({"teacher_recipe": {"epochs": 3}}, {"kd", "hint", "asib"}),
        ({"datasets": {"digits": {"source": "digits", "split_seed": 1}}}, {"ce", "kd", "hint", "asib"}),
        ({"models": {"wrn_16_1": {"arch": "wrn_16_1", "recipe": {"lr": 0.01}}}}, {"asib"}),
    ],
    ids=[
        "nothing",
        "words",
        "report",
        "threads",
        "co_train",
        "per_job",
        "seed",
        "epochs",
        "teacher",
        "packing",
        "one teacher",
    ],
)
def test_what_changes_what_a_result_is_made_from(changes, stale):
    methods = ["ce", "kd", "hint", {"method": "asib", "num_stages": 2}]
    assert changed(jobs_of(*methods), jobs_of(*methods, **changes)) == stale


def test_a_later_stage_changes_nothing_before_it():
    settings = {"method": "asib", "num_stages": 2, "schedule_span": "stage"}
    before = identities(jobs_of({**settings, "ce_alpha": [0.5, 0.5]}))
    after = identities(jobs_of({**settings, "ce_alpha": [0.5, 0.3]}))
    changed_keys = [key for key in before if before[key] != after[key]]
    stale = {(rule, folder.rpartition("/seed0")[2]) for _, rule, folder in changed_keys}
    assert stale == {("asib_student_update", "/stage2/student_update"), ("asib_result", ""), ("evaluate", "")}


def test_what_a_rule_does_is_part_of_what_its_result_is_made_from():
    plan = Plan(check_experiment({**BASE, "methods": ["kd"]}))
    (run,) = [run for run in plan.runs if run.method == "kd"]
    same, other = Jobs(plan), Jobs(plan, lambda rule: "python other.py" if rule == "train_student" else "")
    assert other.of("train_student", run).identity != same.of("train_student", run).identity
    teacher = ("train_teacher", "digits", "resnet20", 0)
    assert other.of(*teacher).identity == same.of(*teacher).identity


def test_every_job_has_a_record_of_its_own():
    jobs = jobs_of(
        "ce", "kd", "ft", {"method": "asib", "num_stages": 2}, recipe={"epochs": 400, "teacher_view": "live"}
    )
    records = [made["record"] for row in rows(jobs) for made in row["made"]["steps"]]
    students = [record for record in records if "/teachers/" not in record]
    assert len(students) == len(set(students))


def test_a_row_names_its_own_jobs_and_all_before_them():
    jobs = jobs_of("ft", {"method": "asib", "num_stages": 1})
    found = {row["method"]: row for row in rows(jobs)}
    assert [step["folder"].rpartition("seed0")[2] for step in found["asib"]["made"]["steps"]] == [
        *("/stage1/teacher_update", "/stage1/student_update", "", "")
    ]
    before = {step["folder"].removeprefix(f"{HOME}/") for step in found["ft"]["made"]["before"]}
    assert {"data", "teachers/resnet20/seed0", "pretrain/resnet20/ft/seed0"} <= before
    assert all(step["folder"].startswith(f"{HOME}/teachers/") for step in found["teacher"]["made"]["steps"])


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Return a folder with 60 training and 20 test images."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 30), ("test", 10)):
        for name in ("cats", "dogs"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for k in range(count):
                (tmp_path / "pictures" / split / name / f"{k}.png").touch()
    return tmp_path / "pictures"


def on_pictures(**source) -> Jobs:
    folder = {"source": "imagefolder", "image_size": 32, **source}
    others = {"part": {**folder, "subset_size": 50}, "otherwise": {**folder, "validation": 0.3}}
    return jobs_of("kd", datasets={"whole": folder, **others})


def trainings(jobs: Jobs) -> dict[str, list]:
    """Return by data set what trains on it."""
    found: dict[str, list] = {}
    for run in jobs.plan.runs:
        teacher = jobs.of("train_teacher", run.dataset, run.teachers[0], run.seed)
        found.setdefault(run.dataset, []).extend([teacher, jobs.training(run)])
    return found


def images(jobs: Jobs) -> dict[str, int]:
    """Return by data set about how many images are trained on."""
    return {name: images_of(jobs, name) for name in jobs.plan.experiment.datasets}


def test_a_scheduler_is_asked_for_the_time_of_the_images_that_are_there(pictures):
    jobs = on_pictures(root=str(pictures))
    assert images(jobs) == {"whole": 60, "part": 50, "otherwise": 60}
    assert {job.work.at(2).minutes for job in trainings(jobs)["whole"]} == {2 * (5 + 1)}


@pytest.mark.parametrize(("size", "counted"), [(30_000_000_000, 100_000), (25_000_000, 24_414)])
def test_an_archive_is_no_reason_to_ask_for_more_than_is_usual(tmp_path, size, counted):
    with (tmp_path / "pictures.tar").open("wb") as file:
        file.truncate(size)
    found = images(on_pictures(archives=[str(tmp_path / "pictures.tar")]))
    assert (found["whole"], found["part"]) == (counted, 50)


def test_jobs_are_the_same_where_the_images_are_gone(pictures):
    """Those of the data set that is packed, and of the others that train on the same arrays."""
    before = {name: [job.identity for job in jobs] for name, jobs in trainings(on_pictures(root=str(pictures))).items()}
    write_json("results/unit/whole/data/made/prepare_data.json", {"contents": "1", "train_images": 60})
    shutil.rmtree(pictures / "train")
    shutil.rmtree(pictures / "test")
    after = {name: [job.identity for job in jobs] for name, jobs in trainings(on_pictures(root=str(pictures))).items()}
    assert after == before


@pytest.mark.parametrize(
    "record",
    [{}, [60], {"train_images": None}, {"train_images": "60"}],
    ids=["without", "a list", "null", "text"],
)
def test_a_record_of_packing_that_tells_no_number_of_images_is_none(pictures, record):
    write_json("results/unit/whole/data/made/prepare_data.json", record)
    shutil.rmtree(pictures / "train")
    shutil.rmtree(pictures / "test")
    assert images(on_pictures(root=str(pictures)))["whole"] == UNKNOWN_SOURCE


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_leave_to_fetch_images_changes_no_job(tmp_path, source):
    """They are the same images, and whoever has them takes the leave back."""
    cifar = CIFARS[source]
    for name in cifar.files:
        (tmp_path / cifar.folder).mkdir(exist_ok=True)
        (tmp_path / cifar.folder / name).touch()
    given, fetched = (
        jobs_of("ce", "kd", datasets={"digits": {"source": source, "root": str(tmp_path), "download": download}})
        for download in (False, True)
    )
    assert given.of("prepare_data", "digits").identity == fetched.of("prepare_data", "digits").identity
    assert student(given, "kd").identity == student(fetched, "kd").identity


def test_a_job_of_several_students_is_the_same_whichever_of_its_runs_names_it():
    """Each part is told what it is told alone, and reads the one teacher that all seeds share."""
    side = {"co_train": ["kd", "hint"], "students_per_job": 6, "teacher_seed": 7, "seeds": [0, 1, 2]}
    jobs = jobs_of("ce", "kd", "hint", **side)
    runs = [run for run in jobs.plan.runs if run.method in side["co_train"]]
    shared = {jobs.of("train_students", run).settings for run in runs}
    assert len(shared) == 1
    job = jobs.of("train_students", runs[0])
    order = [(method, seed) for seed in (0, 1, 2) for method in ("kd", "hint")]
    assert [part.folder for part in job.parts] == [
        f"{HOME}/resnet20--resnet8/{method}/seed{seed}" for method, seed in order
    ]
    assert job.inputs["teachers"] == [f"{HOME}/teachers/resnet20/seed7/{BEST}"]
    told = json.loads(job.settings)
    assert [one["settings"] for one in told] == [jobs.of("train_student", run).settings for run in shared_runs(jobs)]
    assert job.work.mem_mb == job.parts[0].work.mem_mb + 5 * COMPANION_MB


def shared_runs(jobs: Jobs) -> list:
    return sorted(
        (run for run in jobs.plan.runs if run.method != "ce"), key=lambda run: (run.seed, run.method == "hint")
    )

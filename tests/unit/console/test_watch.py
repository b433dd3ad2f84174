"""What is said while a workflow runs: what is ahead, how long it takes, and Snakemake's lines with more to read."""

import json
import logging
import sys
from pathlib import Path

import pytest

from kd.console.watch import Ahead, Room, Watch, spoken
from kd.console.wording import Wording
from kd.reporting.text import quantity
from kd.study.checks import cost_key
from kd.study.experiment import check_experiment
from kd.study.forecast import START_SECONDS, Forecast
from kd.study.jobs import Jobs
from kd.study.jobs.images import data_folder
from kd.study.plan import Plan
from kd.study.reasons import NEW, Reason
from kd.tools.files import write_json

CONTENT = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet14"], "student": "resnet8"}],
    "methods": ["ce", {"method": "kd", "name": "kd_t2", "temperature": 2.0}],
    "seeds": [0, 1],
    "recipe": {"epochs": 10},
}
TEACHER_SECONDS, STUDENT_SECONDS = 100.0, 40.0


@pytest.fixture
def jobs(tmp_path, monkeypatch) -> Jobs:
    monkeypatch.chdir(tmp_path)
    return Jobs(Plan(check_experiment(CONTENT)))


def students(jobs: Jobs):
    return [jobs.of("train_student", run) for run in jobs.plan.runs]


def network(jobs: Jobs, arch: str, flops: float, seconds: float | None) -> dict:
    timed = {} if seconds is None else {"frozen": seconds, "trained": seconds}
    key = [data_folder(jobs.plan, "digits"), "null", json.dumps({"arch": arch})]
    return {"network": key, "flops": {"frozen": flops, "trained": flops}, "seconds": timed}


def checked(jobs: Jobs, timed: bool = True) -> None:
    """Write what a check says of costs: a thousand passes a training."""
    teacher = jobs.of("train_teacher", "digits", "resnet14", 0)
    trainings = {cost_key(json.loads(teacher.settings)): {"beside": 0.0, "passes": [[0, 0, 1000]], "evaluated": []}}
    for job in students(jobs):
        trainings[cost_key(json.loads(job.settings))] = {"beside": 5e9, "passes": [[1, 0, 1000]], "evaluated": []}
    seconds = (TEACHER_SECONDS / 1000, STUDENT_SECONDS / 1000) if timed else (None, None)
    networks = [network(jobs, "resnet14", 2e9, seconds[0]), network(jobs, "resnet8", 1e9, seconds[1])]
    write_json(
        Path(jobs.plan.folder, "checked.json"),
        {"seconds": 3.0, "costs": {"networks": networks, "trainings": trainings}},
    )


def leave_run(job, seconds: float, cpu: str = "this one", status: str = "ok") -> None:
    hardware = {"device": "cpu", "cpu": cpu}
    write_json(Path(job.folder, "run.json"), {"status": status, "seconds": {"train": seconds}, "hardware": hardware})


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watching(jobs: Jobs, room: Room | None = None, clock: Clock | None = None, reasons=None) -> Watch:
    """Two teachers, and the students that wait for them: those of kd for the teacher of their seed."""
    teachers = [jobs.of("train_teacher", "digits", "resnet14", seed) for seed in (0, 1)]
    ahead = {number: Ahead(job, ()) for number, job in enumerate(teachers)}
    for number, job in enumerate(students(jobs), 2):
        ahead[number] = Ahead(job, [teachers.index(job.after[-1])] if "kd_t2" in job.title else [])
    ahead[9] = Ahead(None, list(ahead))
    found = reasons or dict.fromkeys(ahead, NEW)
    return Watch(Forecast(jobs, "this one"), room or Room(2), quantity, ahead, found, clock or Clock())


def test_one_line_says_what_is_ahead(jobs):
    line = watching(jobs).plan_line()
    assert line == (
        "Ahead: 7 jobs on 2 cores; to train: 2 teachers, 4 students, 60 epochs in all; operations and time are told "
        "once the check knows them."
    )
    checked(jobs)
    line = watching(jobs).plan_line()
    assert line.endswith(
        "60 epochs in all; 8.02 TFLOPs of training, about 3 min (an estimate from a short probe of every network in "
        "the check)."
    )


def test_what_is_made_again_is_told_before_it(jobs):
    reasons = {**dict.fromkeys(range(10), NEW), 2: Reason("recipe.epochs 12 -> 10")}
    words = watching(jobs, reasons=reasons).first_words()
    assert words[:2] == ["Made again, and why:", "  ce: no teacher -> resnet8, seed 0: recipe.epochs 12 -> 10"]
    assert words[-1].startswith("Ahead: ")


def test_nothing_to_train_is_said(jobs):
    seen = Watch(Forecast(jobs), Room(1), quantity, {0: Ahead(jobs.of("tables"), ())}, {0: NEW})
    assert seen.plan_line() == "Ahead: 1 job on 1 core; nothing is to be trained."
    assert seen.cost_line() == ""


@pytest.mark.parametrize(
    ("room", "seconds"),
    [
        (Room(1), 2 * TEACHER_SECONDS + 4 * STUDENT_SECONDS + 6 * START_SECONDS),
        # both teachers at once, then two students twice
        (Room(2), TEACHER_SECONDS + 2 * STUDENT_SECONDS + 3 * START_SECONDS),
        (Room(8), TEACHER_SECONDS + STUDENT_SECONDS + 2 * START_SECONDS),
        (Room(None), TEACHER_SECONDS + STUDENT_SECONDS + 2 * START_SECONDS),
        (Room(None, jobs=1), 2 * TEACHER_SECONDS + 4 * STUDENT_SECONDS + 6 * START_SECONDS),
    ],
    ids=str,
)
def test_time_left_is_that_of_as_many_at_once_as_there_is_room_for(jobs, room, seconds):
    checked(jobs)
    assert watching(jobs, room).time_left() == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("room", "text"),
    [
        (Room(1), "1 core"),
        (Room(8, gpus=2), "8 cores and 2 GPU places"),
        (Room(None, 1), "1 job at a time"),
        (Room(None, 100), "100 jobs at a time"),
        (Room(None, sys.maxsize), "as many jobs at a time as there are"),  # snakemake --jobs unlimited
    ],
)
def test_room_is_told_as_one_says_it(room, text):
    assert str(room) == text


def test_jobs_that_find_no_room_are_not_asked_about_each_time_one_ends(jobs, monkeypatch):
    """With thousands that wait this took seconds of every ten."""
    seen = Watch(Forecast(jobs), Room(2), quantity, {number: Ahead(None, ()) for number in range(50)})
    asked = []
    monkeypatch.setattr(seen, "_needs", lambda one: asked.append(one) or (1, 0))
    assert seen.time_left() == 0
    assert len(asked) == 50


def test_time_left_goes_down_as_jobs_run_and_end(jobs):
    checked(jobs)
    clock = Clock()
    seen = watching(jobs, Room(1), clock)
    whole = seen.time_left()
    seen.started([0])
    clock.now = 30.0
    assert seen.time_left() == pytest.approx(whole - 30)
    clock.now = TEACHER_SECONDS + START_SECONDS
    leave_run(seen.ahead[0].plan, TEACHER_SECONDS)
    seen.finished(0)
    assert seen.time_left() == pytest.approx(whole - TEACHER_SECONDS - START_SECONDS)
    assert seen.progress() == ", about 5 min left"


def test_finished_trainings_correct_the_estimate(jobs):
    checked(jobs)
    seen = watching(jobs, Room(1))
    before = seen.time_left()
    leave_run(seen.ahead[0].plan, 3 * TEACHER_SECONDS)
    seen.finished(0)
    # of what no finished training is like, all of them tell: three times slower than the probe
    assert seen.time_left() == pytest.approx(3 * (before - 6 * START_SECONDS - TEACHER_SECONDS) + 5 * START_SECONDS)
    leave_run(seen.ahead[2].plan, STUDENT_SECONDS)
    seen.finished(2)
    same, others = 3 * TEACHER_SECONDS + STUDENT_SECONDS, 2 * STUDENT_SECONDS
    overall = (3 * TEACHER_SECONDS + STUDENT_SECONDS) / (TEACHER_SECONDS + STUDENT_SECONDS)
    assert seen.time_left() == pytest.approx(same + overall * others + 4 * START_SECONDS)
    assert "and the times of 2 finished trainings" in seen.cost_line()


@pytest.mark.parametrize("more", [{"cpu": "another"}, {"status": "failed"}], ids=["another machine", "failed"])
def test_what_says_nothing_of_this_machine_is_no_measure(jobs, more):
    checked(jobs)
    seen = watching(jobs, Room(1))
    before = seen.time_left()
    leave_run(seen.ahead[0].plan, 1e6, **more)
    seen.finished(0)
    assert seen.time_left() == pytest.approx(before - TEACHER_SECONDS - START_SECONDS)


def test_without_a_timed_probe_operations_stand_for_time_once_something_has_finished(jobs):
    checked(jobs, timed=False)
    seen = watching(jobs, Room(1))
    assert seen.time_left() is None
    assert seen.progress() == ""
    assert seen.plan_line().endswith("8.02 TFLOPs of training, time is told once some of it is done.")
    leave_run(seen.ahead[0].plan, 20.0)
    seen.finished(0)
    # 2 TFLOPs took 20 s
    assert seen.time_left() == pytest.approx(10 * (2 + 4 * 1.005) + 5 * START_SECONDS, rel=0.01)


def test_a_measurement_of_the_networks_is_better_than_the_probe(jobs):
    checked(jobs)
    seen = watching(jobs, Room(1))
    seen.plan_line()
    assert seen.better_estimate() == ""
    for name in ("resnet14", "resnet8"):
        folder = Path(jobs.plan.folder, "digits", "tuned", name)
        mode = {"precision": "fp32", "channels_last": True, "kernels": "torch"}
        rows = [{**mode, "kernels": "compiled", "seconds_a_batch": 9.0}, {**mode, "seconds_a_batch": 0.5}]
        write_json(folder / "measured.json", {"batch_size": 50, "measured": dict.fromkeys(("trained", "frozen"), rows)})
        write_json(folder / "choice.json", {"device": "cpu", "trained": mode, "frozen": mode})
    tune = jobs.of("tune", "digits", "resnet8")
    seen._left[10] = Ahead(tune, ())
    seen.finished(10)
    assert seen.time_left() == pytest.approx(6 * (1000 * 0.5 / 50) + 6 * START_SECONDS)
    assert "an estimate from the measurement of every network" in seen.better_estimate()
    assert seen.better_estimate() == "", "it is said once"


def test_trials_of_a_search_take_what_their_method_as_written_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = {**CONTENT["recipe"], "track_test": True}  # which trials never do
    jobs = Jobs(Plan(check_experiment({**CONTENT, "search": {"trials": 3}, "recipe": recipe})))
    costs = {}
    for job in students(jobs):
        passes = 2000 if job.title.startswith("kd") else 1000
        costs[cost_key(json.loads(job.settings))] = {"beside": 0.0, "passes": [[0, 0, passes]], "evaluated": []}
    content = {"networks": [network(jobs, "resnet8", 1e9, STUDENT_SECONDS / 1000)], "trainings": costs}
    write_json(Path(jobs.plan.folder, "checked.json"), {"seconds": 3.0, "costs": content})
    trials = [jobs.training(trial) for search in jobs.plan.searches.runs for trial in jobs.plan.searches.trials(search)]
    forecast = Forecast(jobs)
    assert [forecast.flops(job) for job in trials] == 3 * [1e12] + 3 * [2e12]
    taken = 3 * [STUDENT_SECONDS + START_SECONDS] + 3 * [2 * STUDENT_SECONDS + START_SECONDS]
    assert [forecast.seconds(job) for job in trials] == pytest.approx(taken)
    leave_run(trials[0], 3 * STUDENT_SECONDS)
    forecast.finished(trials[0])
    assert forecast.seconds(trials[1]) == pytest.approx(3 * STUDENT_SECONDS + START_SECONDS), "as the other one took"


def test_what_waits_for_a_failed_job_takes_no_time(jobs):
    checked(jobs)
    seen = watching(jobs, Room(1))
    before = seen.time_left()
    seen.started([0])
    seen.fails(0, ["logs/0.log"])
    assert seen.time_left() == pytest.approx(before - TEACHER_SECONDS - STUDENT_SECONDS - 2 * START_SECONDS)
    assert seen.failed == {0: ["logs/0.log"]}
    seen.started([0])
    assert seen.failed == {}
    assert seen.time_left() == pytest.approx(before)


def test_thousands_of_jobs_are_not_scheduled_anew_each_time(jobs, monkeypatch):
    checked(jobs)
    monkeypatch.setattr("kd.console.watch.MANY", 3)
    clock = Clock()
    seen = watching(jobs, Room(1), clock)
    whole = seen.time_left()
    monkeypatch.setattr(seen, "_scheduled", lambda now: pytest.fail("scheduled again"))
    clock.now = 5.0
    assert seen.time_left() == pytest.approx(whole - 5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "10 s"),
        (44, "40 s"),
        (89, "90 s"),
        (100, "2 min"),
        (5300, "88 min"),
        (5400, "1 h 30 min"),
        (7190, "2 h"),
        (19_000, "5 h 20 min"),
        (172_900, "2 days"),
        (273_600, "3 days 4 h"),
    ],
)
def test_times_are_told_as_one_says_them(seconds, text):
    assert spoken(seconds) == text


BLOCK = """[Thu Nov 26 19:22:30 2026]
localrule train_student:
    input: a, b
    output: c
    log: logs/one.log
    jobid: 5
    reason: Missing output files: c
    wildcards: seed=0
    resources: mem_mb=6096"""


class Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage()


class Event:
    def __init__(self, name: str) -> None:
        self.name = name


def worded(text: str, event: str | None, short: bool = True, reason: str = "recipe.lr 1 -> 2", **more) -> str:
    wording = Wording(Plain(), {5: "kd_t2: a -> b, seed 0"}, lambda number: reason, lambda: ", about 3 min left", short)
    record = logging.makeLogRecord({"msg": text, "event": event and Event(event), **more})
    return wording.format(record)


def test_a_jobs_lines_name_the_variant_and_who_teaches_whom():
    lines = worded(BLOCK, "JOB_INFO", jobid=5).split("\n")
    assert lines[1] == "localrule train_student: kd_t2: a -> b, seed 0"
    assert [line.split(":")[0].strip() for line in lines[2:]] == ["log", "jobid", "reason", "resources"]
    assert "    reason: recipe.lr 1 -> 2" in lines


def test_a_dry_run_keeps_its_files():
    lines = worded(BLOCK, "JOB_INFO", short=False, jobid=5).split("\n")
    assert len(lines) == len(BLOCK.split("\n"))
    assert "    input: a, b" in lines


def test_reasons_of_snakemake_stand_in_one_line_where_there_is_none_of_ours():
    text = worded(BLOCK.replace("files: c", "files: " + "c" * 9000), "JOB_INFO", reason="", jobid=5)
    assert "    reason: Missing output files: ccc" in text
    assert max(map(len, text.split("\n"))) < 250
    assert "rule train_student:\n" in worded(BLOCK, "JOB_INFO", jobid=7), "a job that nothing is known of"


def test_failed_jobs_and_progress_say_more_and_nothing_else_does():
    assert worded("Error in rule train_student:\n    jobid: 5", "JOB_ERROR", jobid=5).startswith(
        "Error in rule train_student: kd_t2: a -> b, seed 0\n"
    )
    assert worded("3 of 9 steps (33%) done", "PROGRESS") == "3 of 9 steps (33%) done, about 3 min left"
    assert worded("Job stats:", "RUN_INFO") == "Job stats:"
    assert worded("anything", None) == "anything"

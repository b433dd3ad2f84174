"""Which jobs have no result, why, and where their logs are."""

from pathlib import Path

import pytest
from recorded import end

from kd.study.experiment import check_experiment
from kd.study.failures import MISSING, failures
from kd.study.jobs import Asked, Jobs
from kd.study.made import INTERRUPTED, Note, fail
from kd.study.plan import Plan
from kd.tools.files import write_json

CONTENT = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet14"], "student": "resnet8"}],
    "methods": ["ce", "kd", {"method": "kd", "name": "other", "temperature": 2.0}],
    "co_train": ["kd", "other"],
    "recipe": {"epochs": 2},
    "seeds": [0],
}


@pytest.fixture
def jobs(tmp_path, monkeypatch) -> Jobs:
    monkeypatch.chdir(tmp_path)
    return Jobs(Plan(check_experiment(CONTENT)))


def student(jobs: Jobs, method: str):
    return jobs.of("train_student", next(run for run in jobs.plan.runs if run.method == method))


def failing(job, reason: str, identity: str | None = None) -> None:
    fail(Note(Path(job.record), identity or job.identity, log="logs/one.log"), job.rule, reason)


def test_a_failed_run_is_listed_with_its_reason_and_log(jobs):
    failing(student(jobs, "kd"), "out of\nmemory")
    assert failures(jobs, {}) == [
        "1 failed:",
        "  kd: resnet14 -> resnet8, seed 0: out of memory (log: logs/one.log)",
        MISSING,
    ]
    assert MISSING not in failures(Jobs(jobs.plan, asked=Asked(allow_missing=True)), {})


def test_what_did_not_fail_is_not_listed(jobs):
    assert failures(jobs, {}) == []
    failing(student(jobs, "kd"), INTERRUPTED)
    failing(student(jobs, "ce"), "diverged", "an earlier question")
    end(student(jobs, "other"))
    assert failures(jobs, {}) == []


def test_one_that_diverged_beside_others_is_listed_though_its_job_went_well(jobs):
    job = student(jobs, "other")
    end(job)
    write_json(Path(job.folder, "run.json"), {"status": "failed", "reason": "training diverged"})
    (line,) = failures(jobs, {})[1:-1]
    assert line == f"  other: resnet14 -> resnet8, seed 0: training diverged (log: {job.folder}/train.log)"


def test_a_job_that_could_not_say_why_is_listed_with_the_log_that_snakemake_knows(jobs):
    tables, together = jobs.of("tables"), jobs.of("train_students", jobs.plan.runs[1])
    failing(student(jobs, "kd"), "diverged")
    found = failures(jobs, {tables: ["logs/tables.log"], together: ["logs/together.log"], jobs.of("check_pairs"): []})
    assert found[0] == "2 failed:"
    assert "  the tables: it left no reason (log: logs/tables.log)" in found
    assert sum("together.log" in line for line in found) == 0, "its part said why"


def test_many_are_counted(jobs, monkeypatch):
    monkeypatch.setattr("kd.study.failures.MOST", 1)
    failing(student(jobs, "kd"), "x" * 1000)
    failing(student(jobs, "ce"), "y")
    found = failures(jobs, {})
    assert found[0] == "2 failed:"
    assert found[2] == "  and 1 more"
    assert len(found[1]) < 300

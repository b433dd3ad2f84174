"""Records: what finished jobs say, and whose reason is told."""

import json
import os
from pathlib import Path

import pytest
from recorded import end, note_of, step_of

from kd.study.believed import is_made
from kd.study.made import Note, begin, check_result, drop_finished, exchanged, fail, finish, manifest_digest, reason_of
from kd.tools.errors import UserError


def test_a_changed_table_is_refused_though_its_time_is_the_same(job, results):
    before = results[1].stat()
    results[1].write_text("oF metrics.csv", encoding="utf-8")
    os.utime(results[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert exchanged(step_of(job)) == str(results[1])
    with pytest.raises(UserError, match=r"metrics\.csv is damaged"):
        check_result(results[1], "train_student")


def test_a_reason_is_that_of_the_job_that_is_asked(job):
    fail(note_of(job), job.rule, "diverged")
    assert reason_of(step_of(job)) == "diverged"
    assert reason_of({**step_of(job), "identity": "of other settings"}) is None
    end(job)
    assert reason_of(step_of(job)) is None, "a job that ended well has no reason"


def test_a_job_that_was_killed_has_a_reason(job):
    end(job)
    begin(note_of(job), job.rule)
    assert not is_made(job)
    assert "killed" in str(reason_of(step_of(job)))


def test_only_finished_trainings_lose_what_they_would_go_on_from(tmp_path):
    for name in ("finished", "under way"):
        (tmp_path / name / "made").mkdir(parents=True)
        (tmp_path / name / "resume.pt").write_bytes(b"state")
        begin(Note(tmp_path / name / "made" / "train_student.json", "x"), "train_student")
    finish(Note(tmp_path / "finished" / "made" / "train_student.json", "x"), None)
    drop_finished(tmp_path)
    assert sorted(path.parent.name for path in tmp_path.rglob("resume.pt")) == ["under way"]


def test_a_record_holds_what_it_was_made_from(job):
    finish(note_of(job), manifest_digest(str(job.data)), {"contents": None})
    record = json.loads(Path(job.record).read_text(encoding="utf-8"))
    assert (record["identity"], record["contents"]) == (job.identity, None)
    assert len(record["data"]) == 16

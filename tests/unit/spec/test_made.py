"""Records: what is believed, what is made again, and whose reason is told."""

import json
import os
import time
from pathlib import Path

import pytest

from kd.spec import made
from kd.spec.errors import UserError
from kd.spec.jobplan import JobPlan
from kd.spec.made import (
    Note,
    begin,
    bring_to_the_present,
    check_result,
    drop_finished,
    exchanged,
    fail,
    finish,
    is_as_asked,
    is_made,
    reason_of,
)


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"digests": 1}', encoding="utf-8")
    return folder


@pytest.fixture
def job(tmp_path, data) -> JobPlan:
    return JobPlan("train_student", str(tmp_path / "run"), '{"lr":0.1}', "code", data=str(data))


@pytest.fixture(autouse=True)
def fresh_look():
    """Manifests are read once a process."""
    made._manifest_digest_once.cache_clear()


def note(job: JobPlan) -> Note:
    return Note(Path(job.record), job.identity)


def done(job: JobPlan) -> None:
    begin(note(job), job.rule)
    finish(note(job), None if job.data is None else Path(job.data))


def noted(job: JobPlan) -> dict:
    return {"folder": job.folder, "record": job.record, "identity": job.identity, "data": job.data}


def test_a_result_is_believed_while_it_is_what_is_asked(job):
    assert not is_made(job)
    done(job)
    assert is_made(job)
    assert is_as_asked(noted(job))


@pytest.mark.parametrize(
    "other",
    [{"settings": '{"lr":0.2}'}, {"code": "edited"}, {"given": ("other weights",)}, {"rule": "train_teacher"}],
    ids=lambda other: next(iter(other)),
)
def test_a_result_of_something_else_is_not_believed(job, other):
    done(job)
    asked = JobPlan(**{**{"rule": job.rule, "folder": job.folder, "settings": job.settings, "code": job.code}, **other})
    assert not is_made(asked)


def test_what_was_made_before_it_counts(job):
    asked = [
        JobPlan("evaluate", job.folder, "{}", "code", after=(JobPlan("train_student", job.folder, lr, "code"),))
        for lr in ("0.1", "0.2")
    ]
    done(asked[0])
    assert is_made(asked[0])
    assert not is_made(asked[1])


def test_other_images_are_seen_and_absent_ones_are_not_missed(job, data):
    done(job)
    (data / "manifest.json").write_text('{"digests": 2}', encoding="utf-8")
    fresh = made._manifest_digest_once
    fresh.cache_clear()
    assert not is_made(job)
    assert not is_as_asked(noted(job))
    (data / "manifest.json").unlink()
    fresh.cache_clear()
    assert is_made(job)


def test_packing_is_judged_by_what_there_is_to_pack(tmp_path):
    asked = [JobPlan("prepare_data", str(tmp_path), "{}", "code", contents=contents) for contents in ("12 files", None)]
    finish(note(asked[0]), None, {"contents": "12 files"})
    assert is_made(asked[0])
    assert is_made(asked[1]), "where the images are gone nothing says that they changed"
    assert not is_made(JobPlan("prepare_data", str(tmp_path), "{}", "code", contents="13 files"))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", '{"identity": 3}', "\ufeff", "{"],
    ids=["empty", "list", "null", "number", "mark", "cut"],
)
def test_a_damaged_record_says_nothing(job, content):
    done(job)
    Path(job.record).write_text(content, encoding="utf-8")
    assert not is_made(job)


@pytest.fixture
def results(job, tmp_path) -> list[Path]:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    paths = [folder / "checkpoints" / "best.safetensors", folder / "metrics.csv"]
    for path in paths:
        path.write_text(f"of {path.name}", encoding="utf-8")
    finish(Note(Path(job.record), job.identity, tuple(paths)), Path(str(job.data)))
    return paths


def test_a_result_is_its_files(job, results):
    assert is_made(job)
    for path in results:
        os.utime(path)
    assert is_made(job), "the same bytes at another time"


@pytest.mark.parametrize("number", [0, 1], ids=["weights", "table"])
def test_a_file_of_another_run_in_its_place_is_noticed(job, results, number, tmp_path):
    other = tmp_path / "other"
    other.write_text(f"oF {results[number].name}", encoding="utf-8")
    os.replace(other, results[number])
    assert not is_made(job)
    assert exchanged(noted(job)) == (str(results[1]) if number else None)


def test_a_file_is_read_through_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(made, "whole_crc32", lambda path: read.append(path) or len(read))
    path = tmp_path / "weights"
    path.write_text("weights", encoding="utf-8")
    first = made.Seen()
    assert [first.checksum(path), first.checksum(path)] == [1, 1]
    first.keep_in(str(tmp_path / "seen.json"))
    first._write(str(tmp_path / "seen.json"))
    later = made.Seen()
    later.keep_in(str(tmp_path / "seen.json"))
    assert later.checksum(path) == 1
    os.utime(path, (1, 1))
    assert later.checksum(path) == 2
    other = tmp_path / "other"
    other.write_text("WEIGHTS", encoding="utf-8")
    os.utime(other, (1, 1))
    os.replace(other, path)
    assert later.checksum(path) == 3, "another file of the same size and time"


def test_a_file_that_was_deleted_is_none_of_another_run(job, results):
    results[0].unlink()
    assert is_made(job)
    assert exchanged(noted(job)) is None


def test_a_changed_table_is_refused_though_its_time_is_the_same(job, results):
    before = results[1].stat()
    results[1].write_text("oF metrics.csv", encoding="utf-8")
    os.utime(results[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert exchanged(noted(job)) == str(results[1])
    with pytest.raises(UserError, match=r"metrics\.csv is damaged"):
        check_result(results[1], "train_student")


def test_a_reason_is_that_of_the_job_that_is_asked(job):
    fail(note(job), job.rule, "diverged")
    assert reason_of(noted(job)) == "diverged"
    assert reason_of({**noted(job), "identity": "of other settings"}) is None
    done(job)
    assert reason_of(noted(job)) is None, "a job that ended well has no reason"


def test_a_job_that_was_killed_has_a_reason(job):
    done(job)
    begin(note(job), job.rule)
    assert not is_made(job)
    assert "killed" in str(reason_of(noted(job)))


def test_only_finished_trainings_lose_what_they_would_go_on_from(tmp_path):
    for name in ("finished", "under way"):
        (tmp_path / name / "made").mkdir(parents=True)
        (tmp_path / name / "resume.pt").write_bytes(b"state")
        begin(Note(tmp_path / name / "made" / "train_student.json", "x"), "train_student")
    finish(Note(tmp_path / "finished" / "made" / "train_student.json", "x"), None)
    drop_finished(tmp_path)
    assert sorted(path.parent.name for path in tmp_path.rglob("resume.pt")) == ["under way"]


def test_files_from_the_future_are_brought_to_the_present(tmp_path):
    (tmp_path / "run").mkdir()
    for name, when in (("old", time.time() - 1000), ("new", time.time() + 1000)):
        (tmp_path / "run" / name).touch()
        os.utime(tmp_path / "run" / name, (when, when))
    before = (tmp_path / "run" / "old").stat().st_mtime
    bring_to_the_present(tmp_path / "run")
    assert (tmp_path / "run" / "new").stat().st_mtime <= time.time()
    assert (tmp_path / "run" / "old").stat().st_mtime == before
    bring_to_the_present(tmp_path / "absent")


def test_a_record_holds_what_it_was_made_from(job):
    finish(note(job), Path(str(job.data)), {"contents": None})
    record = json.loads(Path(job.record).read_text(encoding="utf-8"))
    assert (record["identity"], record["contents"]) == (job.identity, None)
    assert len(record["data"]) == 16

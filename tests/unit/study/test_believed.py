"""What is believed, what stays, and what is made again."""

import os
import shutil
import time
from pathlib import Path

import pytest
from recorded import end, note_of, step_of

from kd.study import believed, made
from kd.study.believed import bring_to_the_present, is_made, stays
from kd.study.job_plan import JobPlan
from kd.study.made import Note, exchanged, finish, is_as_asked


def test_a_result_is_believed_while_it_is_what_is_asked(job):
    assert not is_made(job)
    end(job)
    assert is_made(job)
    assert is_as_asked(step_of(job))


@pytest.mark.parametrize(
    "other",
    [{"settings": '{"lr":0.2}'}, {"code": "edited"}, {"given": ("other weights",)}, {"rule": "train_teacher"}],
    ids=lambda other: next(iter(other)),
)
def test_a_result_of_something_else_is_not_believed(job, other):
    end(job)
    asked = JobPlan(**{**{"rule": job.rule, "folder": job.folder, "settings": job.settings, "code": job.code}, **other})
    assert not is_made(asked)


def test_what_was_made_before_it_counts(job):
    asked = [
        JobPlan("evaluate", job.folder, "{}", "code", after=(JobPlan("train_student", job.folder, lr, "code"),))
        for lr in ("0.1", "0.2")
    ]
    end(asked[0])
    assert is_made(asked[0])
    assert not is_made(asked[1])


def test_other_images_are_seen_and_absent_ones_are_not_missed(job, data):
    end(job)
    (data / "manifest.json").write_text('{"digests": 2}', encoding="utf-8")
    fresh = made._manifest_digest_once
    fresh.cache_clear()
    assert not is_made(job)
    assert not is_as_asked(step_of(job))
    (data / "manifest.json").unlink()
    fresh.cache_clear()
    assert is_made(job)


def test_packing_is_judged_by_what_there_is_to_pack(tmp_path):
    asked = [JobPlan("prepare_data", str(tmp_path), "{}", "code", contents=contents) for contents in ("12 files", None)]
    finish(note_of(asked[0]), None, {"contents": "12 files"})
    assert is_made(asked[0])
    assert is_made(asked[1]), "where the images are gone nothing says that they changed"
    assert not is_made(JobPlan("prepare_data", str(tmp_path), "{}", "code", contents="13 files"))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", '{"identity": 3}', "\ufeff", "{"],
    ids=["empty", "list", "null", "number", "mark", "cut"],
)
def test_a_damaged_record_says_nothing(job, content):
    end(job)
    Path(job.record).write_text(content, encoding="utf-8")
    assert not is_made(job)


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
    assert exchanged(step_of(job)) == (str(results[1]) if number else None)


def test_a_file_is_read_through_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(believed, "whole_crc32", lambda path: read.append(path) or len(read))
    path = tmp_path / "weights"
    path.write_text("weights", encoding="utf-8")
    first = believed.Seen()
    assert [first.checksum(path), first.checksum(path)] == [1, 1]
    first.keep_in(str(tmp_path / "seen.json"))
    first._write(str(tmp_path / "seen.json"))
    later = believed.Seen()
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
    assert exchanged(step_of(job)) is None


def test_files_from_the_future_are_brought_to_the_present(tmp_path):
    (tmp_path / "run").mkdir()
    for name, when in (("old", time.time() - 1000), ("new", time.time() + 1000)):
        (tmp_path / "run" / name).touch()
        os.utime(tmp_path / "run" / name, (when, when))
    before = (tmp_path / "run" / "old").stat().st_mtime
    bring_to_the_present(JobPlan("collect", str(tmp_path / "run"), "", ""))
    assert (tmp_path / "run" / "new").stat().st_mtime <= time.time()
    assert (tmp_path / "run" / "old").stat().st_mtime == before
    bring_to_the_present(JobPlan("collect", str(tmp_path / "absent"), "", ""))


@pytest.mark.parametrize(
    ("rule", "deleted", "kept"),
    [
        ("train_student", "", True),
        ("train_student", "checkpoints/best.safetensors", True),
        ("train_student", "metrics.csv", True),
        ("evaluate", "", False),
        ("evaluate", "checkpoints/best.safetensors", True),
        ("evaluate", "metrics.csv", False),
    ],
    ids=["run", "weights", "history", "evaluation", "predictions", "numbers"],
)
def test_what_tables_are_made_from_is_missed_and_weights_are_not(rule, deleted, kept, tmp_path, results):
    folder = tmp_path / "run"
    job = JobPlan(rule, str(folder), "{}", "code")
    finish(Note(Path(job.record), job.identity, tuple(results)), None)
    path = folder / deleted
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert stays(job) is kept

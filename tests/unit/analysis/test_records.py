"""Damaged files of finished runs: each is its run's reason, and everything else is made."""

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from recorded import finished, step

from kd.analysis.chain import join_chain
from kd.analysis.collect import collect
from kd.analysis.compared import compute_statistics
from kd.analysis.continual import read_runs as read_continual
from kd.analysis.continual import summaries
from kd.analysis.curves import over_seeds
from kd.analysis.predictions import saved_logits
from kd.schema.config import Reporting
from kd.tools.errors import UserError
from kd.tools.files import read_json

SCORES = {"val_top1": 70.0, "test_top1": 69.5, "test_top5": 90.0, "test_nll": 1.2, "test_ece": 0.04, "agreement": None}
GOOD = {
    "run.json": {
        "status": "ok",
        "settings": {},
        "hardware": {"device": "cpu", "cpu": "a CPU"},
        "seconds": {"train": 12.5},
        "peak_memory_mb": 100.0,
        "flops": {"train": 1e12},
        "params": {"student": 1000, "extra_train": 50, "extra_inference": 0},
        "epochs": 2,
        "best_epoch": 2,
        "validation": {"val_top1": 70.0},
    },
    "evaluation.json": {"last": SCORES, "best": SCORES, "ensemble": {}, "test_top1_tracked_max": None},
    "metrics.csv": "epoch,stage,train_loss,val_top1\n1,train,1.5,60.0\n2,train,nan,70.0\n",
}

# what may stand in the place of any file
ANYWHERE = {
    "empty": b"",
    "not UTF-8": b'{"last": "\xff\xfe"}\nepoch,\xff\n',
    "cut": b'{"last": {"test_top1": 69',
    "zeros": bytes(400),
    "a list": b"[]",
    "null": b"null",
    "a number": b"12",
    "a text": b'"ok"',
    "a long number": b'{"epochs": ' + b"9" * 5000 + b"}",
    "nested": b"[" * 100_000,
    "nested and whole": b"[" * 600 + b"]" * 600,
    "a mark": b"\xef\xbb\xbf{}",
}


def changed(name: str, where: str, value: object) -> bytes:
    """A file with one value exchanged; `where` is its dotted name."""
    content = json.loads(json.dumps(GOOD[name]))
    *parts, last = where.split(".")
    holder = content
    for part in parts:
        holder = holder[part]
    holder[last] = value
    return json.dumps(content).encode()


EVALUATIONS = {
    "text": ("best.test_top1", "69.5"),
    "infinite": ("best.test_top1", math.inf),
    "beyond 100": ("best.test_top1", 6950.0),
    "below 0": ("last.test_top1", -1),
    "true": ("best.test_top1", True),
    "no number": ("best.test_top1", None),
    "list": ("best.test_top1", [69.5]),
    "part is a list": ("best", [1]),
    "part is text": ("last", "69.5"),
    "other text": ("best.test_top5", "90"),
    "validation beyond": ("last.val_top1", 101.0),
    "ensemble": ("ensemble", [1]),
    "tracked": ("test_top1_tracked_max", "x"),
    "huge": ("best.test_nll", 10**400),
}
RUNS = {
    "epochs are text": ("epochs", "2"),
    "seconds are a number": ("seconds", 12.5),
    "seconds are text": ("seconds.train", "12.5"),
    "seconds below 0": ("seconds.train", -3),
    "FLOPs are huge": ("flops.train", 10**400),
    "parameters are a list": ("params", []),
    "hardware is text": ("hardware", "cpu"),
    "memory is true": ("peak_memory_mb", True),
    "other epochs": ("epochs", 3),
}
METRICS = {
    "header only": "epoch,stage,train_loss,val_top1\n",
    "cut in a row": "epoch,stage,train_loss,val_top1\n1,train,1.5,60.0\n2,train\n",
    "cut after a row": "epoch,stage,train_loss,val_top1\n1,train,1.5,60.0\n",
    "letters": "epoch,stage,train_loss,val_top1\n1,train,1.5,60.0\n2,train,1.4,7O.0\n",
    "no epoch": "epoch,stage,train_loss,val_top1\n1,train,1.5,60.0\nx,train,1.4,70.0\n",
    "too many cells": "epoch,stage,train_loss,val_top1\n1,train,1.5,60.0\n2,train,1.4,70.0,1,2\n",
}
DAMAGES = {
    **{f"{name} {kind}": (name, content) for name in GOOD for kind, content in ANYWHERE.items()},
    **{
        f"evaluation {kind}": ("evaluation.json", changed("evaluation.json", *how)) for kind, how in EVALUATIONS.items()
    },
    **{f"run {kind}": ("run.json", changed("run.json", *how)) for kind, how in RUNS.items()},
    **{f"metrics {kind}": ("metrics.csv", text.encode()) for kind, text in METRICS.items()},
}


def write_run(path: Path) -> Path:
    path.mkdir(parents=True)
    for name, content in GOOD.items():
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    finished(path, "train_student", "evaluate")
    return path


def planned(path: Path, seed: int, method: str = "kd", **more) -> dict:
    run = {"experiment": "e", "dataset": "d", "pair": "a--s", "teachers": "a", "student": "s", "method": method}
    rest = {"base_method": method, "seed": seed, "path": str(path), "kind": "student"}
    made = {"steps": [step(path, "train_student"), step(path, "evaluate")], "before": []}
    return run | rest | {"teacher_paths": [], "prestage_paths": [], "taught_by": [], "made": made} | more


def tables_of(tmp_path: Path, *runs: dict) -> list[dict[str, str]]:
    """Make the tables' numbers and the curves of some runs, and return the rows."""
    collect(runs, tmp_path / "runs.csv")
    compute_statistics(tmp_path / "runs.csv", tmp_path / "statistics.json", Reporting())
    over_seeds([run["path"] for run in runs], "val_top1")
    with (tmp_path / "runs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_its_runs_reason_and_no_other_row_changes(name, tmp_path):
    file, content = DAMAGES[name]
    runs = [planned(write_run(tmp_path / f"seed{seed}"), seed) for seed in range(2)]
    before = tables_of(tmp_path, *runs)
    (tmp_path / "seed1" / file).write_bytes(content)
    good, bad = tables_of(tmp_path, *runs)
    assert good == before[0]
    assert bad["status"] == "failed"
    assert file.split(".")[0] in bad["reason"]
    assert len(bad["reason"]) < 500
    assert bad["test_top1_best"] == bad["train_seconds"] == ""


@pytest.mark.parametrize("file", GOOD)
def test_a_folder_in_the_place_of_a_file(file, tmp_path):
    runs = [planned(write_run(tmp_path / f"seed{seed}"), seed) for seed in range(2)]
    (tmp_path / "seed1" / file).unlink()
    (tmp_path / "seed1" / file).mkdir()
    good, bad = tables_of(tmp_path, *runs)
    assert (good["status"], bad["status"]) == ("ok", "failed")
    assert file in bad["reason"]
    assert "Is a directory" in bad["reason"]


@pytest.mark.parametrize("file", GOOD)
def test_a_file_that_may_not_be_read(file, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("nothing is closed to root")
    runs = [planned(write_run(tmp_path / f"seed{seed}"), seed) for seed in range(2)]
    (tmp_path / "seed1" / file).chmod(0)
    good, bad = tables_of(tmp_path, *runs)
    assert (good["status"], bad["status"]) == ("ok", "failed")
    assert "Permission denied" in bad["reason"]


@pytest.mark.parametrize("file", ["run.json", "evaluation.json"])
@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"best": 3, "seconds": []}'], ids=["a", "b", "c", "d"])
def test_a_damaged_teacher_costs_its_students_what_is_not_known_and_no_more(file, content, tmp_path, caplog):
    teacher, student = write_run(tmp_path / "teacher"), write_run(tmp_path / "student")
    (teacher / file).write_bytes(content)
    taught = {"teacher_paths": [str(teacher)], "taught_by": [str(teacher)]}
    runs = [planned(student, 0, **taught), planned(teacher, 0, method="teacher")]
    row, own = tables_of(tmp_path, *runs)
    assert (row["status"], row["test_top1_best"], row["train_seconds"]) == ("ok", "69.5", "12.5")
    assert (row["teacher_seconds"] == "") == (file == "run.json")
    assert (row["teacher_test_top1"] == "") == (file == "evaluation.json")
    assert own["status"] == "failed"
    assert file in own["reason"]


@pytest.mark.parametrize("kind", ANYWHERE)
def test_json_that_cannot_be_read_is_one_sentence_with_its_name(kind, tmp_path):
    (tmp_path / "file.json").write_bytes(ANYWHERE[kind])
    try:
        read_json(tmp_path / "file.json")
    except UserError as error:
        assert "file.json" in str(error)  # noqa: PT017 (some of these are JSON)
    with pytest.raises(UserError, match=r"no\.json does not exist"):
        read_json(tmp_path / "no.json")


# --- class-incremental runs ----------------------------------------------------------------------

MATRIX = {
    "class_order": [1, 0],
    "sizes": [1, 1],
    "images": {"test": [10, 10], "val": [5, 5]},
    **{split: {kind: [[90.0, None], [60.0, 80.0]] for kind in ("class", "task")} for split in ("test", "val")},
}
MATRICES = {
    **ANYWHERE,
    "no table": json.dumps(MATRIX | {"test": {}}).encode(),
    "another table": json.dumps(MATRIX | {"test": {"class": [[1.0]], "task": [[1.0]]}}).encode(),
    "text": json.dumps(MATRIX | {"val": {"class": [["90", None], [1, 2]], "task": [[1, 2], [1, 2]]}}).encode(),
    "beyond": json.dumps(MATRIX | {"test": {"class": [[900, None], [1, 2]], "task": [[1, 2], [1, 2]]}}).encode(),
    "images": json.dumps(MATRIX | {"images": [10, 10]}).encode(),
    "sizes": json.dumps(MATRIX | {"sizes": 2}).encode(),
}


def continual(folder: Path, seed: int, content: bytes) -> dict:
    path = folder / f"seed{seed}"
    path.mkdir()
    (path / "matrix.json").write_bytes(content)
    finished(path, "continual_run", "continual_matrix")
    made = {"steps": [step(path, "continual_run"), step(path, "continual_matrix")], "before": []}
    return {"dataset": "d", "student": "s", "strategy": "x", "seed": seed, "path": str(path), "made": made}


@pytest.mark.parametrize("kind", MATRICES)
def test_a_damaged_matrix_is_its_runs_reason(kind, tmp_path):
    runs = [continual(tmp_path, 0, json.dumps(MATRIX).encode()), continual(tmp_path, 1, MATRICES[kind])]
    good, bad = read_continual(runs)
    assert good.measures["final"] == 70.0
    assert bad.status == "failed"
    assert "matrix.json" in bad.reason
    (record,) = summaries([good, bad], 0.95)
    assert (record.planned, record.used) == (2, 1)


# --- chains, predictions ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in DAMAGES if not name.startswith(("evaluation", "run other epochs"))])
def test_a_damaged_half_stage_ends_its_chain_in_a_sentence(name, tmp_path):
    file, content = DAMAGES[name]
    halves = [write_run(tmp_path / "stage1" / half) for half in ("teacher_update", "student_update")]
    (halves[1] / file).write_bytes(content)
    with pytest.raises(UserError, match=file.split(".")[0]):
        join_chain(halves, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def truncated(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path, content: bytes) -> None:
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize("damage", [truncated, flipped], ids=["cut", "bit"])
def test_damaged_predictions_are_refused(damage, tmp_path):
    path = tmp_path / "predictions.npz"
    np.savez_compressed(path, logits_test_best=np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32))
    assert saved_logits(path, "logits_test_best").shape == (50, 10)
    damage(path, path.read_bytes())
    with pytest.raises(UserError, match=r"predictions\.npz (is damaged|cannot be read)"):
        saved_logits(path, "logits_test_best")


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros(3, np.float32), "not logits"),
        (np.zeros((3, 2), np.int64), "not logits"),
        (np.array([["a"]], dtype=object), "cannot be read"),
        (None, "cannot be read"),
    ],
    ids=["one axis", "integers", "objects", "none"],
)
def test_predictions_of_another_kind_are_refused(array, told, tmp_path):
    path = tmp_path / "predictions.npz"
    np.savez(path, **({"other": np.zeros(1)} if array is None else {"logits_test_best": array}))
    with pytest.raises(UserError, match=told):
        saved_logits(path, "logits_test_best")


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", bytes(100)], ids=["empty", "pickle", "zeros"])
def test_predictions_that_are_none(content, tmp_path):
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"p\.npz cannot be read") as told:
        saved_logits(tmp_path / "p.npz", "logits_test_best")
    assert "pickle" not in str(told.value)
    with pytest.raises(UserError, match=r"q\.npz does not exist"):
        saved_logits(tmp_path / "q.npz", "logits_test_best")

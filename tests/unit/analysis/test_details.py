"""What is gathered from run folders: what is there, and that what is not there or damaged is left out."""

import json

import numpy as np
import pytest

from kd.analysis.details import class_by_class, gather, read_details, write_details
from kd.analysis.rows import RunRow
from kd.tools.errors import UserError

IDENTITY = {"experiment": "e", "dataset": "toy", "pair": "big--small", "teachers": "big", "student": "small"}
MODE = {"precision": "fp32", "channels_last": False, "kernels": "torch"}


def row(folder, method="kd", seed=0, status="ok", kind="student"):
    named = {"method": method, "base_method": method, "seed": seed, "kind": kind}
    return RunRow(**IDENTITY, **named, status=status, reason="", path=str(folder))


def left(folder, labels=(0, 1, 2, 1), answers=(0, 1, 2, 2), validation=3, **record):
    folder.mkdir(parents=True)
    logits = 3 * np.eye(3, dtype=np.float32)[list(answers)]
    arrays = {"labels_test": np.array(labels), "labels_val": np.arange(validation) % 3}
    for weights, sign in (("best", 1), ("last", -1)):
        arrays |= {
            f"logits_test_{weights}": sign * logits,
            f"logits_val_{weights}": np.zeros((validation, 3), np.float32),
        }
    np.savez(folder / "predictions.npz", **arrays)
    (folder / "run.json").write_text(json.dumps({"settings": {"lr": 0.1}, **record}), encoding="utf-8")
    return folder / "predictions.npz"


def test_details_are_read_back_as_they_were_written(tmp_path):
    ran = {"hardware": {"kernels": {"student": {"trained": MODE, "frozen": MODE}}}}
    left(tmp_path / "kd0", **ran, versions={"torch": "2.14"}, git={"commit": "abc", "dirty": True})
    left(tmp_path / "kd1", answers=(0, 0, 0, 0), versions={"torch": "2.15"}, git={"commit": "abc", "dirty": False})
    rows = [row(tmp_path / "kd1", seed=1), row(tmp_path / "kd0"), row(tmp_path / "gone", "at", status="failed")]
    found = gather(rows, {}, "best")
    write_details(found, tmp_path / "details.json")
    assert read_details(tmp_path / "details.json") == found
    (kd,) = found.methods
    assert (kd.seed, kd.settings, kd.ran) == (0, {"lr": 0.1}, {"student": "fp32, channels first, torch kernels"})
    assert kd.by_class.accuracy == [100.0, 25.0, 50.0], "the mean over seeds of 100, 50, 100 and 100, 0, 0"
    assert kd.by_class.confusion == [[2, 0, 0], [2, 1, 1], [1, 0, 1]]
    assert kd.by_class.images == [1, 2, 1]
    assert found.versions == ["torch 2.15", "torch 2.14"]
    assert found.commits == ["abc", "abc with uncommitted changes"]
    assert found.of("toy", "big--small") == {"kd": kd}
    assert found.of("toy", "other") == {}


def test_the_reported_weights_answer(tmp_path):
    path = left(tmp_path / "a")
    assert class_by_class([path], "best", []).accuracy == [100.0, 50.0, 100.0]
    assert class_by_class([path], "last", []).accuracy != [100.0, 50.0, 100.0]


@pytest.mark.parametrize(("names", "shown"), [(["a", "b", "c"], ["a", "b", "c"]), (["a", "b"], ["0", "1", "2"])])
def test_names_count_where_they_are_of_these_classes(tmp_path, names, shown):
    assert class_by_class([left(tmp_path / "a")], "best", names).classes == shown


def test_without_validation_images_there_is_no_temperature(tmp_path):
    found = class_by_class([left(tmp_path / "a", validation=0)], "best", [])
    assert (found.temperature, found.after) == (None, None)
    assert found.before.error > 0


@pytest.mark.parametrize("damage", ["cut", "none of ours", "no labels", "labels of others"])
def test_answers_that_cannot_be_read_are_left_out_and_told(tmp_path, caplog, damage):
    path = left(tmp_path / "a")
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "none of ours":
        path.write_bytes(b"something else")
    else:
        with np.load(path) as arrays:
            kept = {name: array for name, array in arrays.items() if damage != "no labels" or "labels" not in name}
        if damage == "labels of others":
            kept["labels_test"] = np.zeros(9, np.int64)
        np.savez(path, **kept)
    assert class_by_class([path], "best", []) is None
    assert str(path) in caplog.text


def test_answers_that_were_deleted_are_no_matter(tmp_path, caplog):
    assert class_by_class([tmp_path / "predictions.npz"], "best", []) is None
    assert caplog.text == ""


def test_a_damaged_record_shows_nothing(tmp_path, caplog):
    left(tmp_path / "kd0")
    (tmp_path / "kd0" / "run.json").write_text("[1", encoding="utf-8")
    (kd,) = gather([row(tmp_path / "kd0")], {}, "best").methods
    assert (kd.settings, kd.ran) == (None, {})
    assert "its settings are not shown" in caplog.text


def test_details_of_another_version_are_refused(tmp_path):
    from kd.tools.files import write_json

    write_json(tmp_path / "details.json", {"methods": [], "datasets": {}, "other": 1})
    with pytest.raises(UserError, match="not of this version"):
        read_details(tmp_path / "details.json")

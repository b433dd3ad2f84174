"""The quick start, run for real: what it leaves, and that it says what it did."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from kd.engine.precision import training_device

# one worker: the other one would wait for the run that they share
pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("quickstart")]

RUN_FILES = [
    *("config.yaml", "train.log", "metrics.csv", "run.json", "predictions.npz", "evaluation.json"),
    *("checkpoints/best.safetensors", "checkpoints/last.safetensors"),
]


@pytest.fixture(scope="session")
def results(quickstart_run):
    return quickstart_run / "results" / "quickstart"


@pytest.fixture(scope="session")
def rows(results):
    with (results / "runs.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_planned_run_finished(rows, quickstart_run):
    content = yaml.safe_load((quickstart_run / "config/config.yaml").read_text(encoding="utf-8"))
    names = [
        entry if isinstance(entry, str) else entry.get("name", entry.get("method")) for entry in content["methods"]
    ]
    expected = {(name, str(seed)) for name in names for seed in content["seeds"]}
    assert {(row["method"], row["seed"]) for row in rows if row["method"] != "teacher"} == expected
    assert {row["status"] for row in rows} == {"ok"}


def test_every_run_leaves_its_files(rows, quickstart_run):
    for row in rows:
        folder = quickstart_run / row["path"]
        absent = [name for name in RUN_FILES if not (folder / name).is_file()]
        assert absent == [], f"{folder} lacks {absent}"
        assert not list(folder.rglob("resume.pt"))
        assert not list(folder.rglob(".*.*")), "no temporary file is left"


def test_records_hold_what_a_reviewer_asks_for(rows, quickstart_run):
    for row in rows:
        record = json.loads((quickstart_run / row["path"] / "run.json").read_text(encoding="utf-8"))
        assert record["versions"]["torch"]
        assert record["hardware"]["device"] == training_device().type
        assert record["hardware"]["kernels"]["student"]["trained"]["precision"] == "fp32", "nothing was measured"
        assert record["seconds"]["train"] > 0
        assert record["peak_memory_mb"] > 0
        assert record["digests"].keys() == {"code", "inputs", "split"}


def test_runs_of_a_seed_share_their_split(rows, quickstart_run):
    splits = {}
    for row in rows:
        record = json.loads((quickstart_run / row["path"] / "run.json").read_text(encoding="utf-8"))
        splits.setdefault(row["seed"], set()).add(record["digests"]["split"])
    assert all(len(digests) == 1 for digests in splits.values())
    assert len(set.union(*splits.values())) == len(splits), "another seed has another split"


def test_predictions_give_the_accuracy_of_the_table(rows, quickstart_run):
    for row in rows:
        saved = np.load(quickstart_run / row["path"] / "predictions.npz")
        accuracy = 100 * (saved["logits_test_best"].argmax(1) == saved["labels_test"]).mean()
        assert np.isclose(accuracy, float(row["test_top1_best"]))


def test_methods_learn(rows):
    """Chance is 10 %: after a few epochs on digits nothing is near it."""
    for row in rows:
        assert float(row["test_top1_best"]) > 40, f"{row['method']} seed {row['seed']}: {row['test_top1_best']} %"


def test_tables_and_figures_are_there(results):
    for ending in ("csv", "md", "tex", "json"):
        assert (results / f"tables/comparison.{ending}").stat().st_size > 500
    figures = list((results / "figures").rglob("*.png"))
    assert {path.stem for path in figures} == {"learning_curves", "accuracy", "differences", "cost"}
    assert all(path.with_suffix(".pdf").exists() for path in figures)
    assert "http" not in _loaded((results / "report.html").read_text(encoding="utf-8")), "the page opens offline"


def _loaded(html: str) -> str:
    import re

    return " ".join(re.findall(r'(?:src|href)="(?!#|data:|https://arxiv|https://doi)([^"]*)"', html))


def test_synergy_and_teachers_are_reported_for_each_half_stage(rows, quickstart_run):
    for row in rows:
        if row["method"] == "asib":
            halves = json.loads((quickstart_run / row["path"] / "run.json").read_text(encoding="utf-8"))["half_stages"]
            assert [half["half"] for half in halves] == ["teacher_update", "student_update"] * 2
            for half in halves[::2]:
                found = half["validation"]
                assert {"val_top1/given/teacher0", "val_top1/given/teacher1"} <= found.keys()
                assert found["val_top1/synergy"] >= found["val_top1/given/average"]


@pytest.mark.parametrize("run", ["resnet14--resnet8/kd/seed0", "resnet14+wrn_16_1--resnet8/asib/seed0"])
def test_a_student_can_be_taken_away(run, results, quickstart_run, tmp_path):
    script = [
        sys.executable,
        "workflow_scripts/export.py",
        str(results / "digits" / run),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(script, cwd=quickstart_run, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out" / "student.json").read_text(encoding="utf-8"))
    evaluated = json.loads((results / "digits" / run / "evaluation.json").read_text(encoding="utf-8"))
    assert facts["test_top1"] == evaluated["best"]["test_top1"]
    assert facts["classes"] == [str(digit) for digit in range(10)]
    assert set(facts["files"]) == {"weights.safetensors", "student.pt2", "student.onnx"}

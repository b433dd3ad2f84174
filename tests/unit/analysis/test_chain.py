"""A chain of half-stages as one run: the best student half, epochs numbered through, costs summed."""

import csv
import json

import pytest
import yaml

from kd.analysis.chain import join_chain


def half(root, stage, name, accuracies, seconds, memory):
    folder = root / f"stage{stage}" / name
    (folder / "checkpoints").mkdir(parents=True)
    rows = [f"{i},{name},{accuracy}" for i, accuracy in enumerate(accuracies, 1)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,stage,val_top1", *rows]) + "\n", encoding="utf-8")
    record = {
        "status": "ok",
        "settings": {"stage": stage, "half": name},
        "seconds": {"train": seconds},
        "peak_memory_mb": memory,
        "flops": {"train": 10.0},
        "validation": {"val_top1": accuracies[-1]},
        "params": {"student": 5},
    }
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "train.log").write_text(f"{stage} {name}\n", encoding="utf-8")
    for weights in ("best", "last"):
        (folder / "checkpoints" / f"{weights}.safetensors").write_text(f"{weights} of {stage}", encoding="utf-8")
    return folder


@pytest.fixture
def chain(tmp_path):
    return [
        half(tmp_path, 1, "teacher_update", [99.0], 1.0, 300),
        half(tmp_path, 1, "student_update", [10.0, 60.0], 2.0, 100),
        half(tmp_path, 2, "teacher_update", [99.0], 4.0, 100),
        half(tmp_path, 2, "student_update", [60.0, 50.0], 8.0, 100),
    ]


def test_a_chain_becomes_one_run(chain, tmp_path):
    out = tmp_path / "run"
    join_chain(chain, out)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["best_epoch"] == 3, "the earliest of equal student epochs; teacher halves select nothing"
    assert (out / "checkpoints/best.safetensors").read_text(encoding="utf-8") == "best of 1"
    assert (out / "checkpoints/last.safetensors").read_text(encoding="utf-8") == "last of 2"
    assert record["seconds"]["train"] == 15.0
    assert record["flops"]["train"] == 40.0
    assert record["peak_memory_mb"] == 300
    assert [stage["stage"] for stage in record["half_stages"]] == [1, 1, 2, 2]
    rows = list(csv.DictReader((out / "metrics.csv").open(encoding="utf-8")))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert rows[-1]["stage"] == "stage2/student_update"
    assert list(yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))) == [
        f"{f.parent.name}/{f.name}" for f in chain
    ]
    assert (out / "train.log").read_text(encoding="utf-8").count("\n") == 4

"""Whole runs: bit-identical after an interruption, every setting read, the test split untouched."""

import csv
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from told import told

from kd.continual.evaluation import accuracy_matrices
from kd.continual.jobs import UNFINISHED, planned_epochs
from kd.engine.data import Data
from kd.study.continual import Continual, Strategy, parse_continual_settings
from kd.study.made import drop_progress

EVERYTHING = {
    "ce_classes": "current",
    "replay_capacity": 20,
    "replay_ratio": 0.4,
    "ewc_weight": 50.0,
    "ewc_images": 8,
    "prev_kd_weight": 1.0,
    "prev_kd_temperature": 3.0,
    "targets": "teacher",
    "target_weight": 0.5,
    "target_temperature": 3.0,
    "balance_epochs": 2,
    "balance_lr": 0.02,
}


class Interrupted(Exception):
    pass


def stop_after(*epochs):
    waiting = list(epochs)

    def on_epoch(row):
        if waiting and row["epoch"] == waiting[0]:
            waiting.pop(0)
            raise Interrupted

    return on_epoch


def weights(world, name="run", tasks=2):
    return [load_file(world.folder / name / "checkpoints" / f"task{task}.safetensors") for task in range(1, tasks + 1)]


def same(first, second):
    return all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


@pytest.mark.parametrize("epoch", range(1, 6))
def test_an_interrupted_run_ends_bit_identical(world, epoch):
    """Epochs 1 and 2 are the first task, 3 and 4 the second, 5 and 6 its class-balanced fine-tuning."""
    here = world(EVERYTHING)
    here.train("whole")
    with pytest.raises(Interrupted):
        here.train("broken", stop_after(epoch))
    assert not (here.folder / "broken" / "run.json").exists()
    seen = []
    here.train("broken", lambda row: seen.append(row["epoch"]))
    assert seen == list(range(epoch + 1, 7)), "not more than the epoch under way is lost"
    assert same(weights(here, "whole"), weights(here, "broken"))
    shutil.rmtree(here.folder / "broken" / "checkpoints")
    here.train("broken", lambda row: seen.append(row["epoch"]))
    assert seen == list(range(epoch + 1, 7)), "a finished run that was not noted is not trained again"
    assert same(weights(here, "whole"), weights(here, "broken"))
    drop_progress(here.folder / "broken")
    assert not (here.folder / "broken" / UNFINISHED).exists()


def test_a_run_of_other_code_starts_over(world):
    here = world(EVERYTHING)
    with pytest.raises(Interrupted):
        here.train("run", stop_after(4), code="old")
    seen = []
    here.train("run", lambda row: seen.append(row["epoch"]), code="new")
    assert seen == list(range(1, 7))


def test_a_run_folder_is_complete(world):
    here = world(EVERYTHING)
    here.train()
    record = json.loads((here.folder / "run" / "run.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((here.folder / "run" / "metrics.csv").open(encoding="utf-8")))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"] == [str(k + 1) for k in range(6)]
    assert [row["task"] for row in rows] == ["1", "1", "2", "2", "2", "2"]
    assert [row["stage"] for row in rows] == ["train"] * 4 + ["balance"] * 2
    assert {"loss/ce", "loss/prev_kd", "loss/target", "loss/ewc"} <= rows[0].keys()
    assert rows[0]["loss/ewc"] == ""
    assert float(rows[2]["loss/ewc"]) > 0
    assert record["epochs"] == planned_epochs(here.job()) == 6
    first, second = record["tasks"]
    assert sorted(first["classes"] + second["classes"]) == list(range(10))
    assert first["kept_of_each_class"] == []
    assert second["kept_of_each_class"] == [4] * 5, "twenty images of five classes"
    assert record["flops"]["train"] > 0


def test_the_test_split_is_never_read_in_training(world, monkeypatch):
    def forbidden(self):
        raise AssertionError("the test split was read")

    monkeypatch.setattr(Data, "test", property(forbidden))
    world(EVERYTHING).train()


def test_the_matrix_holds_every_task_learnt_so_far(world):
    here = world({"replay_capacity": 20}, num_tasks=3)
    here.train()
    paths = [here.folder / "run" / "checkpoints" / f"task{task}.safetensors" for task in (1, 2, 3)]
    found = accuracy_matrices(
        parse_continual_settings(told(here.plan, "continual_matrix", here.run)), here.packed, paths
    )
    for split in ("test", "val"):
        for kind in ("class", "task"):
            matrix = found[split][kind]
            assert [[value is not None for value in row] for row in matrix] == [
                [column <= row for column in range(3)] for row in range(3)
            ]
        for among_seen, among_own in zip(found[split]["class"], found[split]["task"], strict=True):
            assert all(a <= b for a, b in zip(among_seen, among_own, strict=True) if a is not None)
    assert found["test"]["class"][0][0] == found["test"]["task"][0][0], "one task: all seen classes are its own"
    assert sum(found["images"]["test"]) == 359
    assert found["class_order"] == list(map(int, found["class_order"]))


# --- no setting is inert --------------------------------------------------------------------------

CHANGED = {
    "ce_weight": 0.5,
    "ce_classes": "seen",
    "replay_capacity": 10,
    "replay_ratio": 0.8,
    "ewc_weight": 500.0,
    "ewc_images": 30,
    "prev_kd_weight": 0.3,
    "prev_kd_temperature": 1.0,
    "targets": None,
    "target_weight": 2.0,
    "target_temperature": 1.0,
    "balance_epochs": 1,
    "balance_lr": 0.2,
    "recipe": {"lr": 0.01},
}
SECTION = {"student": "resnet14", "teacher": "resnet20", "num_tasks": 3, "class_order": "natural"}
QUICK = {"epochs": 1}


def test_every_setting_is_tried():
    assert CHANGED.keys() | {"name"} == Strategy.model_fields.keys()
    assert SECTION.keys() | {"strategies"} == Continual.model_fields.keys()


def last(world, strategy, **section):
    here = world(strategy, recipe=QUICK, **section)
    return here.train("_".join(map(str, section)) or "run").last


@pytest.fixture(scope="module")
def kept_base():
    return {}


@pytest.mark.parametrize("key", CHANGED)
def test_every_setting_of_a_strategy_changes_the_student(world, kept_base, key):
    if not kept_base:
        kept_base.update(last(world, EVERYTHING))
    strategy = {**EVERYTHING, key: CHANGED[key]}
    if key == "targets":
        strategy = {name: value for name, value in strategy.items() if not name.startswith("target")}
    found = last(world, strategy)
    assert any(not torch.equal(found[name], kept_base[name]) for name in kept_base), f"{key} is read by nobody"


@pytest.mark.parametrize("key", SECTION)
def test_every_setting_of_the_section_changes_the_student(world, kept_base, key):
    if not kept_base:
        kept_base.update(last(world, EVERYTHING))
    found = last(world, EVERYTHING, **{key: SECTION[key]})
    differs = found.keys() != kept_base.keys() or any(not torch.equal(found[n], kept_base[n]) for n in kept_base)
    assert differs, f"{key} is read by nobody"

"""The goals that the engine has on a GPU: all is measured on a CPU too, and nothing is said that was not found."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kd.speed import goals
from kd.speed.goals import Goals, Line, show
from kd.speed.measure import MATRIX
from kd.speed.settings import parse
from kd.speed.side_by_side import Several, distillations
from kd.speed.world import World
from kd.tools.errors import UserError
from kd.tools.files import read_json

SCRIPT = Path(__file__).parents[3] / "workflow_scripts" / "benchmark.py"
TINY = {
    "precision": "fp32",  # or kernels would be chosen by a measurement
    "teachers": ["resnet14"],
    "student": "resnet8",
    "methods": ["kd"],
    "batch_size": 8,
    "images": 8,
    "repeats": 1,
    "train_images": 80,
    "classes": 4,
    "image_size": 8,
    "validation": 0.1,
    "workers": 0,
}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(MATRIX, "cpu", 64)


def made(folder, minutes=5.0, **changes) -> Goals:
    found = Goals(parse(**{**TINY, **changes}), folder, time.monotonic() + 60 * minutes)
    found.pairs = (("resnet14", "resnet8"), ("resnet20", "resnet8"))
    return found


def test_every_goal_has_a_line_with_what_was_found_and_aimed_at(tmp_path, monkeypatch):
    monkeypatch.setattr(goals, "COUNTS", (1, 8))
    monkeypatch.setattr(goals, "FIELD", ("kd", "at", "fsp", "crd"))
    monkeypatch.setattr(goals, "PAIRS", (("resnet14", "resnet8"), ("resnet20", "resnet8")))
    told = []
    goals.run(parse(**{**TINY, "methods": ["kd", "sp"]}), tmp_path / "work", tmp_path / "goals.json", 5.0, told.append)
    lines = read_json(tmp_path / "goals.json")["lines"]
    assert len(told) == len(lines)
    by_name = {line["goal"]: line for line in lines}
    for alike in (
        "captured trainings end as eager ones, bit for bit",
        "students side by side end as alone, bit for bit",
    ):
        assert (by_name[alike]["found"], by_name[alike]["reached"]) == ("the same weights", True)
    assert by_name["8 students side by side"]["aimed"] == "at least 14 times"
    assert by_name["8 students side by side"]["figures"]["median"] > 0
    assert by_name["every method"]["found"].endswith("of 2 methods reach it")
    pair = by_name["resnet14 → resnet8: 4 methods, 5 seeds"]
    assert pair["figures"]["hours"] > 0
    assert pair["figures"]["left_out"] == {}
    table = by_name["the field's table: 2 pairs × 4 methods × 5 seeds × 240 epochs"]
    both = [line["figures"]["hours"] for line in lines if "5 seeds" in line["goal"] and line["figures"]]
    assert table["found"].startswith(f"{sum(both):.0f} h ")


def test_hours_are_those_of_the_recipe(tmp_path, monkeypatch):
    """Two methods at 1,000 student images a second, whose evaluation costs nothing: 240 epochs, five seeds."""
    monkeypatch.setattr(goals, "FIELD", ("kd", "at"))
    monkeypatch.setattr(goals, "seconds", lambda work, device: 0.0)
    monkeypatch.setattr(Goals, "_rate", lambda self, several, count: {"median": 1000.0})
    *pairs, table = made(tmp_path).hours()
    assert [line.figures["hours"] for line in pairs] == pytest.approx([2 * 5 * 240 * 50 / 3600] * 2)
    assert table.found == "67 h on one such device"
    assert table.reached is False


def test_a_pair_without_time_is_estimated_and_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(goals, "FIELD", ("kd",))
    monkeypatch.setattr(goals, "seconds", lambda work, device: 0.0)
    monkeypatch.setattr(Goals, "_rate", lambda self, several, count: {"median": 10_000.0})
    late = iter([False, True])
    monkeypatch.setattr(Goals, "_late", lambda self, before=0.0: next(late))
    first, table = made(tmp_path).hours()
    assert table.found == f"{2 * first.figures['hours']:.0f} h on one such device, 1 of them by the mean of the others"


def test_other_weights_are_told(tmp_path, monkeypatch):
    """Trainings without a graph are given another seed, so that they differ."""
    real = goals.train_student
    seeded = lambda job, files, told: real(  # noqa: E731
        job.model_copy(update={"seed": 1 if job.recipe.capture == "off" else 0}), files, told
    )
    monkeypatch.setattr(goals, "train_student", seeded)
    monkeypatch.setattr(goals, "ALIKE", ("kd", "sp"))
    captured, _ = made(tmp_path).equality()
    assert (captured.found, captured.reached) == ("other weights with kd, sp", False)


def test_methods_that_there_is_no_time_for_are_named(tmp_path):
    late = made(tmp_path, minutes=0.0, methods=["kd", "at"])
    (line,) = late.methods()
    assert line.found == "0 of 0 methods reach it, no time for kd, at"
    assert line.reached is None


def test_the_trouble_of_one_goal_is_no_others(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("out of memory\nat all")
        yield

    def refused(self):
        raise UserError("no such network")
        yield

    for name, part in {"equality": broken, "speed": refused, "together": broken, "methods": broken}.items():
        part.__name__ = name
        monkeypatch.setattr(Goals, name, part)
    monkeypatch.setattr(Goals, "hours", lambda self: iter([Line("the table", "1 h", "at most 40 h", True)]))
    found = list(made(tmp_path).measure())
    assert [line.reached for line in found] == [False, False, False, False, True]
    assert found[0].found == "failed: out of memory"
    assert [show(line)[:8] for line in found[-2:]] == ["MISSED  ", "reached "]
    assert show(found[-1]) == "reached the table: 1 h (aimed at: at most 40 h)"


def test_several_leaves_out_what_does_not_fit(tmp_path, monkeypatch):
    world = World(parse(**TINY), tmp_path)
    several = Several(world, ["kd", {"method": "at", "student_taps": ["stage9"]}])
    assert list(several.engines) == ["kd"]
    assert "stage9" in several.left_out["at"]
    with pytest.raises(UserError, match="stage9"):
        Several(world, [{"method": "at", "student_taps": ["stage9"]}])


def test_several_train_all_they_hold_from_epoch_to_epoch(tmp_path):
    several = Several(World(parse(**TINY), tmp_path), distillations(2))
    first = next(iter(several.engines.values()))
    steps = first.training.feed.steps
    several.run(steps + 2)
    assert [engine.training.stage_run.steps_done for engine in several.engines.values()] == [2, 2]


def test_the_script_writes_its_file_in_time(tmp_path):
    pair = [
        "--goals",
        "0",
        "--pair",
        "resnet14",
        "resnet8",
        "--data",
        "digits",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    size = ["--methods", "kd", "--batch-size", "16", "--images", "16", "--repeats", "1", "--workers", "0"]
    command = [sys.executable, SCRIPT, *pair, *size, "--threads", "1", "--out", tmp_path / "benchmark.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, errors="backslashreplace", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"{tmp_path / 'goals.json'}\n")
    assert "captured trainings end as eager ones, bit for bit: the same weights" in done.stdout
    assert {"settings", "hardware", "versions", "git", "lines"} <= set(read_json(tmp_path / "goals.json"))

"""Methods trained side by side end as if each had been trained alone, interrupted or not."""

import pytest
import torch
from safetensors.torch import load_file

from kd.engine import jobs
from kd.spec.files import read_json
from kd.spec.job import parse_job

METHODS = ["kd", {"method": "crd", "negatives": 32}, "hint", {"method": "hint", "two_stage": True, "hint_epochs": 1}]


class Interrupted(Exception):
    pass


@pytest.fixture
def worlds(world):
    return [world(method) for method in METHODS]


def files_of(worlds, name):
    return [here.files(f"{name}/{number}") for number, here in enumerate(worlds)]


def together(worlds, name, on_epoch=lambda row: None):
    return jobs.train_students([here.job() for here in worlds], files_of(worlds, name), on_epoch)


def assert_equal_runs(worlds, first, second):
    for number, here in enumerate(worlds):
        for kept in ("best", "last"):
            a, b = (
                load_file(here.folder / name / str(number) / "checkpoints" / f"{kept}.safetensors")
                for name in (first, second)
            )
            assert all(torch.equal(a[key], b[key]) for key in a), f"method {number}, {kept}"


def test_each_run_ends_bit_identical_to_a_run_alone(worlds):
    results = together(worlds, "together")
    for here, files in zip(worlds, files_of(worlds, "alone"), strict=True):
        jobs.train_student(here.job(), files, lambda row: None)
    assert_equal_runs(worlds, "together", "alone")
    alone = [here.folder / "alone" / str(number) / "run.json" for number, here in enumerate(worlds)]
    flops = [read_json(path)["flops"]["train"] for path in alone]
    assert [result.flops for result in results] == pytest.approx(flops)


@pytest.mark.parametrize("epochs_told", [1, 3, 6])
def test_an_interrupted_group_ends_bit_identical(worlds, epochs_told):
    """The interruption falls between two methods' ends of an epoch, so that some are ahead when they go on."""
    together(worlds, "whole")
    told = []

    def stop(row):
        told.append(row)
        if len(told) == epochs_told:
            raise Interrupted

    with pytest.raises(Interrupted):
        together(worlds, "broken", stop)
    together(worlds, "broken")
    assert_equal_runs(worlds, "whole", "broken")


def test_teachers_run_once_for_all(worlds, monkeypatch):
    calls = []
    from kd.engine.teachers import Onlookers

    original = Onlookers._outputs
    monkeypatch.setattr(Onlookers, "_outputs", lambda self, batch: calls.append(1) or original(self, batch))
    results = together(worlds, "together")
    steps = -(-160 // parse_job(worlds[0].plan.student_job(worlds[0].run)).recipe.batch_size)
    longest = max(len(result.rows) for result in results)
    assert len(calls) == steps * longest

"""A stage under way: its state can be put down and taken up, and nothing of the team is lent to it."""

import copy

import pytest
import torch

from kd.engine.checkpoint import ResumeFile
from kd.engine.jobs.workbench import prepare
from kd.engine.training import Training
from kd.methods.contract import STUDENT, stages_of

RECIPE = {"ema_decay": 0.5, "schedule": "plateau", "patience": 1, "lr_drops": 3, "epochs": 9}


class Broken(Exception):
    pass


@pytest.fixture
def training(world, tmp_path):
    here = world("kd", recipe=RECIPE)

    def made():
        bench = prepare(here.job(), here.files("run"))
        nowhere = ResumeFile(tmp_path / "resume.pt", "stamp")
        found = Training(bench.team, bench.method, bench.data, here.job().recipe, bench.precision, 0, nowhere, print)
        found.start(stages_of(bench.method))
        return found

    return made


def epoch(training):
    training.begin_epoch()
    for batch in training.feed.epoch():
        training.step(batch, training.frozen.outputs(batch), training.frozen.cost(len(batch.labels)))
    training.end_epoch()


def same(one, other):
    """Whether two states hold the same values, tensors compared by their bits."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_state_holds_all_that_training_moved(training):
    first, second = training(), training()
    for _ in range(2):
        epoch(first)
    state = copy.deepcopy(first.stage_run.state_dict())
    assert not same(state, second.stage_run.state_dict())
    second.stage_run.load_state_dict(state)
    assert same(state, second.stage_run.state_dict())
    assert second.stage_run.epoch == 2
    assert second.stage_run.plateau.state, "the best epoch's weights are part of it"


def test_the_averaged_student_is_evaluated_and_the_trained_one_stays_in_its_place(training, monkeypatch):
    here = training()
    student = here.team.models[STUDENT]
    seen = []

    def breaking(team, *rest):
        seen.append(team.models[STUDENT])
        assert here.team.models[STUDENT] is student
        raise Broken

    monkeypatch.setattr("kd.engine.training.accuracies", breaking)
    with pytest.raises(Broken):
        epoch(here)
    assert seen == [here.stage_run.ema.model]
    assert here.team.models[STUDENT] is student


def test_taps_that_others_want_are_told_to_the_forward_pass_and_not_to_the_team(training, monkeypatch):
    here = training()
    taps, asked = here.team.taps, []
    answer = type(here.team)._answer

    def watched(self, role, images, precision, with_grad, wanted):
        assert self.taps is taps
        asked.append((role, tuple(wanted)))
        return answer(self, role, images, precision, with_grad, wanted)

    monkeypatch.setattr(type(here.team), "_answer", watched)
    batch = next(here.feed.epoch())
    here.frozen.outputs(batch, {"teacher0": ("stage1",)})
    assert asked == [("teacher0", ("stage1",))]

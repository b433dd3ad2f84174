"""Steps recorded and replayed: the logic around a graph, with one that calls what it recorded."""

import pytest
import torch
from interrupted import Interrupted, stop_after
from safetensors.torch import load_file

from kd.engine import capture, loop
from kd.engine.capture import WARM_UP, Replay
from kd.engine.precision import check_capture
from kd.schema.config import Recipe
from kd.tools.errors import UserError

RECIPE = {"epochs": 3, "batch_size": 32, "ema_decay": 0.5, "grad_clip": 1.0, "mixup_alpha": 0.3}
IMAGES = {"subset_size": 210}
"""168 images to train on: five batches of 32 and a smaller one."""
METHODS = {
    "kd": "kd",
    "dml": "dml",
    "crd": {"method": "crd", "negatives": 32},
    "dot": {"name": "dot", "combine": ["kd", "dot"]},
    "mlkd": "mlkd",
    "hint_two_stage": {"method": "hint", "two_stage": True, "hint_epochs": 1},
}


class FakeGraph:
    """A graph of nothing: it takes a step by calling it, and notes what it was asked."""

    made: list["FakeGraph"] = []
    waiting: str | None = None
    """What a step is said to wait for."""
    failing = False
    """Whether a recording fails."""

    def __init__(self, device):
        self.asked, self.step = [], None
        FakeGraph.made.append(self)

    def run(self, step):
        self.asked.append("run")
        step()

    def waits(self, step):
        self.asked.append("waits")
        step()
        return FakeGraph.waiting

    def record(self, step):
        self.asked.append("record")
        if FakeGraph.failing:
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            finally:
                raise RuntimeError("capture was invalidated")
        self.step = step

    def replay(self):
        self.asked.append("replay")
        self.step()


@pytest.fixture
def replayed(monkeypatch):
    """Return what lays the steps of an experiment out on the CPU, and returns the graphs that stand for a GPU's."""

    def lay_out(here):
        here.files("run")  # the teachers are trained before
        monkeypatch.setattr("kd.engine.training.replays", lambda device: True)
        monkeypatch.setattr(loop, "CudaGraph", FakeGraph)
        FakeGraph.made = []
        return FakeGraph.made

    return lay_out


def weights(folder):
    return {
        (name, key): value
        for name in ("best", "last")
        for key, value in load_file(folder / "checkpoints" / f"{name}.safetensors").items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


# --- the order of things ------------------------------------------------------------------------------


class Steps:
    """A step that counts how often it was taken, at a place that a test may move."""

    def __init__(self, wanted="auto", *, waiting=None, failing=False):
        FakeGraph.made, FakeGraph.waiting, FakeGraph.failing = [], waiting, failing
        self.taken, self.place, self.mended = 0, 0, 0
        graph = lambda: FakeGraph(None)  # noqa: E731
        self.replay = Replay(self.take, lambda: self.place, self.mend, graph, "stage 'train' of method own", wanted)

    def take(self):
        self.taken += 1

    def mend(self):
        self.mended += 1

    def go(self, steps):
        for _ in range(steps):
            self.replay()
        return [graph.asked for graph in FakeGraph.made]


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    for name in ("made", "waiting", "failing"):
        monkeypatch.setattr(FakeGraph, name, getattr(FakeGraph, name))


def test_warm_up_steps_are_steps_and_recording_is_none():
    steps = Steps()
    assert steps.go(WARM_UP + 2) == [["run"] * (WARM_UP - 1) + ["waits", "record", "replay", "replay"]]
    assert steps.taken == WARM_UP + 2


def test_a_step_whose_tensors_moved_is_recorded_anew():
    steps = Steps()
    steps.go(WARM_UP + 1)
    steps.place = 1
    first, second = steps.go(WARM_UP + 1)
    assert first == second == ["run"] * (WARM_UP - 1) + ["waits", "record", "replay"]
    assert steps.taken == 2 * (WARM_UP + 1)


def test_tensors_made_by_the_first_steps_are_no_reason_to_begin_again():
    steps = Steps()
    take = steps.take

    def moving():
        take()
        steps.place = min(steps.taken, WARM_UP - 1)

    steps.replay._step = moving
    assert steps.go(WARM_UP + 1) == [["run"] * (WARM_UP - 1) + ["waits", "record", "replay"]]


@pytest.mark.parametrize(
    ("trouble", "reason", "asked"),
    [
        ({"waiting": "own.py:7 waits for the GPU"}, "own.py:7 waits for the GPU", ["waits"]),
        ({"failing": True}, "operation not permitted when stream is capturing", ["waits", "record"]),
    ],
    ids=["waits", "fails"],
)
def test_what_cannot_be_recorded_says_so_once_and_goes_on_step_by_step(trouble, reason, asked, caplog):
    steps = Steps(**trouble)
    assert steps.go(WARM_UP + 3) == [["run"] * (WARM_UP - 1) + asked]
    assert (steps.taken, steps.mended) == (WARM_UP + 3, 1)
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"stage 'train' of method own cannot be captured and runs step by step: {reason}"]
    with pytest.raises(UserError, match=r"recipe.capture: on, but stage 'train' of method own cannot be captured \("):
        Steps("on", **trouble).go(WARM_UP + 1)


def test_off_makes_no_graph():
    steps = Steps("off")
    assert steps.go(4) == []
    assert steps.taken == 4


def test_on_needs_a_gpu():
    with pytest.raises(UserError, match=r"recipe.capture: on needs a GPU, found a CPU; allowed there are auto and off"):
        check_capture(Recipe(epochs=1, capture="on"), torch.device("cpu"))
    check_capture(Recipe(epochs=1, capture="on"), torch.device("cuda"))
    for word in ("auto", "off"):
        check_capture(Recipe(epochs=1, capture=word), torch.device("cpu"))


# --- whole trainings ----------------------------------------------------------------------------------


def as_is(here, monkeypatch):
    """Return the weights of the same training, of which no step is recorded."""
    with monkeypatch.context() as patch:
        patch.setattr(capture, "WARM_UP", 10**9)
        here.train("by_step")
    return weights(here.folder / "by_step")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_replayed_training_is_that_of_its_steps_and_an_interruption_does_not_show(
    world, replayed, monkeypatch, method
):
    recipe = RECIPE if method in ("kd", "dml") else {**RECIPE, "mixup_alpha": 0.0}
    here = world(method, recipe=recipe, dataset=IMAGES)
    graphs = replayed(here)
    here.train("whole")
    made = [graph.asked for graph in graphs]
    stages = 2 if method == METHODS["hint_two_stage"] else 1
    assert len(made) == stages, "a stage has a graph of its own"
    for asked in made:
        # five whole batches an epoch; the sixth is smaller and no part of this
        assert asked == ["run"] * (WARM_UP - 1) + ["waits", "record"] + ["replay"] * (len(asked) - WARM_UP - 1)
        assert (len(asked) - 1) % 5 == 0
    assert same(weights(here.folder / "whole"), as_is(here, monkeypatch))
    with pytest.raises(Interrupted):
        here.train("broken", stop_after(2))
    here.train("broken")
    assert same(weights(here.folder / "whole"), weights(here.folder / "broken"))


def test_going_back_to_the_best_weights_records_anew(world, replayed, monkeypatch):
    """Optimisers take their moments into other memory then."""
    recipe = {**RECIPE, "schedule": "plateau", "patience": 1, "lr_drops": 2, "epochs": 8, "lr": 0.5}
    here, rates = world("kd", recipe=recipe, dataset=IMAGES), set()
    graphs = replayed(here)
    here.train("whole", lambda row: rates.add(row["lr"]))
    assert len(graphs) == len(rates) > 1
    assert same(weights(here.folder / "whole"), as_is(here, monkeypatch))


@pytest.mark.parametrize("trouble", ["waiting", "failing"])
def test_a_training_that_cannot_be_recorded_is_the_same(world, replayed, monkeypatch, caplog, trouble):
    setattr(FakeGraph, trouble, "own.py:7 waits")
    here = world("kd", recipe=RECIPE, dataset=IMAGES)
    graphs = replayed(here)
    here.train("whole")
    told = [record.getMessage() for record in caplog.records if "cannot be captured" in record.getMessage()]
    assert len(told) == len(graphs) == 1
    assert told[0].startswith("stage 'train' of method kd cannot be captured and runs step by step: ")
    assert same(weights(here.folder / "whole"), as_is(here, monkeypatch))

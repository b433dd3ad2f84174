"""What networks take where they are deployed, measured once for each that is different."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kd.analysis.networks import Network, Networks, read_networks
from kd.engine import latency as timing
from kd.engine.jobs.networks import measure_networks
from kd.models.build import build_model
from kd.models.reuse import Facts, ReusedHead, deployment
from kd.models.weights import save_weights
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError
from kd.tools.files import write_json

CLASSES, SIDE = 5, 8
FACTS = Facts("stage3", False, 2, 2, 64, 16, 32, True, CLASSES, True, "big")


def plain(arch="resnet8"):
    torch.manual_seed(0)
    return build_model(ModelSettings(arch=arch), CLASSES, SIDE)


def saved(model, folder):
    """Save weights as a training does, and return the run's folder."""
    save_weights(model, folder / "checkpoints" / "best.safetensors", deployment(model))
    return str(folder)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Folders of two runs of one network, one of another, and one that is deployed with more."""
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    models = {"a": plain(), "b": plain(), "branches": plain("MultiBranchNet"), "reused": ReusedHead(plain(), FACTS)}
    return {saved(model, tmp_path / name): model for name, model in models.items()}


def measured(runs, tmp_path):
    archs = {path: "MultiBranchNet" if path.endswith("branches") else "resnet8" for path in runs}
    asked = {path: (ModelSettings(arch=arch), SIDE) for path, arch in archs.items()}
    write_json(tmp_path / "networks.json", measure_networks(asked, "best"))
    return read_networks(tmp_path / "networks.json")


def test_networks_are_counted_as_deployed_and_each_once(runs, tmp_path):
    found = measured(runs, tmp_path)
    assert len(found.networks) == 3
    first, second, *_ = runs
    assert found.of(first) is found.of(second)
    for path, model in runs.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.zeros(1, 3, SIDE, SIDE))
        network = found.of(path)
        assert network.flops == counter.get_total_flops()
        assert network.parameters == sum(p.numel() for p in model.parameters())
        assert set(network.milliseconds) == {"1", "64"}
        assert network.number("milliseconds.1") > 0
    projector = 64 * 16 + 16 * 16 * 9 + 16 * 32 + 2 * (16 + 16 + 32)
    assert found.of(str(tmp_path / "reused")).parameters - found.of(first).parameters == projector + (32 - 64) * CLASSES
    assert (found.threads, found.differ(runs), found.differ([first, second])) == (1, True, False)


def test_runs_without_whole_weights_are_left_out(runs, tmp_path, caplog):
    first, second, *_ = runs
    for path, content in ((first, None), (second, b"{")):
        weights = tmp_path / path / "checkpoints" / "best.safetensors"
        weights.unlink()
        if content:
            weights.write_bytes(content)
    found = measured(runs, tmp_path)
    assert found.of(first) is found.of(second) is None
    assert len(found.runs) == 2
    assert caplog.text.count("its network is not measured") == 2


def test_a_processor_that_is_taken_away_is_told(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "process_time", lambda: 0.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    found = timing.latency(torch.nn.Identity(), torch.zeros(1, 3, 2, 2))
    assert (found.busy, found.milliseconds) == (True, {"1": 1000.0, "64": 1000.0})


def test_a_file_that_no_job_left_is_refused(tmp_path):
    write_json(tmp_path / "networks.json", {"networks": [{"size": 1}]})
    with pytest.raises(UserError, match="is not of this version"):
        read_networks(tmp_path / "networks.json")
    assert read_networks(None) == Networks()
    assert Network(parameters=1, flops=2, milliseconds={"1": 0.5}).number("flops") == 2

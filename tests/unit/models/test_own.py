"""A user's own network: taps by the names of its modules, stages, freezing, weights, what is told of a wrong one."""

import copy

import pytest
import torch

from kd.models.build import build_model
from kd.models.folding import folded
from kd.models.freezing import freeze
from kd.models.weights import save_weights
from kd.schema.architectures import check_architecture, module_of, modules_of
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError
from kd.tools.own_code import module_at

SMALL = "config/own/small_net.py:small_net"
TEXT = """
import torch
from torch import nn

class Twice(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.act = nn.ReLU(inplace=True)
        self.deep = nn.Conv2d(4, 6, 3, 2, 1)
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        x = self.act(self.stem(x))
        return self.fc(self.act(self.deep(x)).mean((2, 3)))

def listed(classes):
    net = Twice(classes)
    net.stage_taps = ("deep",)
    return net

def lost(classes):
    net = Twice(classes)
    net.stage_taps = ("fc",)
    return net

class Scaled(Twice):
    def forward(self, x):
        return 2 * super().forward(x)

def no_net(classes):
    return classes

def wide(classes):
    return Twice(classes + 1)

def fails(classes):
    raise RuntimeError("out of ideas")

def large(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 9), nn.Flatten(), nn.LazyLinear(classes) if False else nn.Linear(4, classes))
"""


@pytest.fixture
def built(tmp_path):
    (tmp_path / "mine.py").write_text(TEXT, encoding="utf-8")

    def build(function, classes=5, size=8, **settings):
        torch.manual_seed(0)
        return build_model(ModelSettings(arch=f"{tmp_path}/mine.py:{function}", **settings), classes, size)

    return build


def test_taps_are_modules_and_stages_the_last_map_of_each_resolution():
    model = build_model(ModelSettings(arch=SMALL), 10, 8)
    assert model.stage_taps == ("0", "1", "2")
    assert {"0", "0.0", "0.1", "1", "2", "embedding"} <= set(model.tap_names)
    x = torch.rand(2, 3, 8, 8)
    logits, taps = model.eval()(x, ("1", "embedding", "0"))
    assert list(taps) == ["1", "embedding", "0"]
    torch.testing.assert_close(taps["0"], model.net[0](x), rtol=0, atol=0)
    torch.testing.assert_close(taps["1"], model.net[1](taps["0"]), rtol=0, atol=0)
    assert taps["embedding"].shape == (2, 64)
    torch.testing.assert_close(logits, model.classifier(taps["embedding"]), rtol=0, atol=0)


def test_a_tap_that_is_written_over_in_place_keeps_its_value(built):
    model = built("Twice").eval()
    x = torch.randn(2, 3, 8, 8)
    _, taps = model(x, ("stem", "deep"))
    torch.testing.assert_close(taps["stem"], model.net.stem(x), rtol=0, atol=0)
    assert (taps["stem"] < 0).any(), "the ReLU behind it works in place"
    assert (taps["deep"] < 0).any()
    assert "act" not in model.tap_names, "it runs twice: which of both would it be?"


def test_stages_can_be_listed(built):
    assert built("listed").stage_taps == ("deep",)
    assert built("Twice").stage_taps == ("stem", "deep")
    with pytest.raises(UserError, match="stage_taps lists 'fc', which gives no map; maps are stem"):
        built("lost")


def test_gradients_reach_what_stands_before_a_tap(built):
    model = built("Twice")
    model(torch.randn(4, 3, 8, 8), ("stem",))[1]["stem"].square().sum().backward()
    assert model.net.stem[0].weight.grad.abs().sum() > 0
    assert model.net.deep.weight.grad is None


def test_copies_and_folded_copies_have_taps_of_their_own(built):
    model, x = built("Twice").eval(), torch.randn(2, 3, 8, 8)
    model.net.stem[1].running_mean.add_(1.0)
    for other in (copy.deepcopy(model), folded(model, x)):
        for found, expected in zip(
            other(x, model.tap_names)[1].values(), model(x, model.tap_names)[1].values(), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_freezing_counts_the_parts_before_the_head(built):
    model = built("Twice")
    assert model.blocks() == [model.net.stem, model.net.deep]
    freeze(model, 1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"net.deep.weight", "net.deep.bias", "net.fc.weight", "net.fc.bias"}


def test_weights_of_a_file_are_loaded(built, tmp_path):
    first = built("Twice")
    with torch.no_grad():
        first.net.fc.weight.fill_(0.5)
    save_weights(first, tmp_path / "own.safetensors", {})
    torch.save(first.net.state_dict(), tmp_path / "own.pt")  # as a training of the user's own leaves it
    for file in ("own.safetensors", "own.pt"):
        again = built("Twice", pretrained=str(tmp_path / file))
        assert torch.equal(again.net.fc.weight, first.net.fc.weight)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("Twicee", "unknown function or class of .*mine.py 'Twicee': did you mean 'Twice'"),
        ("Scaled", "its logits must be what a last linear layer gives"),
        ("no_net", "must return a torch.nn.Module, found int"),
        ("wide", r"must return logits \(B,5\) of images \(B,3,H,W\), found \(B,6\)"),
        ("fails", "cannot be built for 5 classes: RuntimeError: out of ideas"),
        ("large", "cannot process images of 8x8"),
    ],
)
def test_what_is_no_such_network_is_told(built, function, message):
    with pytest.raises(UserError, match=message):
        built(function)


def test_timms_weights_are_not_to_be_had(built):
    with pytest.raises(UserError, match="pretrained: true needs a timm architecture"):
        built("Twice", pretrained=True)


def test_its_file_is_part_of_what_a_job_runs():
    assert module_of(SMALL) == "kd.models.own"
    assert modules_of(SMALL) == {"kd.models.own", "config/own/small_net.py"}
    assert modules_of("resnet8") == {"kd.models.resnet_cifar"}


@pytest.mark.parametrize(
    "arch", ["no/such.py:net", "config/own/small_net.py:", "small_net.py"], ids=["file", "empty", "bare"]
)
def test_names_that_lead_nowhere_are_told(arch):
    with pytest.raises(UserError):
        check_architecture(arch)


def test_looking_at_a_network_draws_nothing_from_the_stream_of_its_weights():
    torch.manual_seed(0)
    module_at("config/own/small_net.py").small_net(10)
    after_its_weights = torch.get_rng_state()
    torch.manual_seed(0)
    build_model(ModelSettings(arch=SMALL), 10, 8)
    assert torch.equal(torch.get_rng_state(), after_its_weights)

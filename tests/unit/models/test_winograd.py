"""Winograd's convolutions against float64 and against torch's own, values and gradients."""

import copy
import os

import pytest
import torch
from torch import nn

from kd.engine.flops import FlopCounter
from kd.models import winograd
from kd.models.build import build_model
from kd.schema.config import ModelSettings

pytestmark = pytest.mark.skipif(winograd.library() is None, reason="no C compiler that can build the library")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def passes(module, x, gradient):
    """Return output and gradients of input, weight and bias."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    y.backward(gradient)
    return [y.detach(), x.grad, module.weight.grad] + ([] if module.bias is None else [module.bias.grad])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("images", "inputs", "outputs", "height", "width"),
    [(3, 32, 64, 7, 9), (5, 64, 32, 4, 4), (2, 32, 32, 1, 5), (9, 128, 128, 8, 8)],
)
def test_values_and_gradients_are_those_of_the_convolution(images, inputs, outputs, height, width, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    exact, fast = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    assert winograd.use_winograd(fast) == 1
    x, gradient = torch.randn(images, inputs, height, width), torch.randn(images, outputs, height, width)
    expected = passes(exact, x.double(), gradient.double())
    for found, value in zip(passes(fast, x, gradient), expected, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=0, atol=5e-5 * float(value.abs().max()))


def test_threads_change_no_bit_of_a_convolution_and_two_runs_none_of_a_gradient():
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 64, 3, padding=1)
    winograd.use_winograd(layer)
    x, gradient = torch.randn(16, 32, 16, 16), torch.randn(16, 64, 16, 16)

    def run(threads):
        torch.set_num_threads(threads)
        layer.zero_grad()
        return passes(layer, x, gradient)

    one, two, again = run(1), run(2), run(2)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert all(torch.equal(a, b) for a, b in zip(two, again, strict=True))


def test_a_frozen_convolution_transforms_its_weights_once_and_gives_the_same():
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 32, 3, padding=1)
    x = torch.randn(2, 32, 6, 6)
    expected = layer(x)
    winograd.use_winograd(layer, frozen=True)
    first = layer(x)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(layer(x), first)
    layer.run_direct()
    assert type(layer) is nn.Conv2d
    torch.testing.assert_close(layer(x), layer.bias.expand(2, 6, 6, 32).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1},
        {"padding": 0},
        {"padding": 1, "groups": 32},
        {"padding": 2, "dilation": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 1},
    ],
)
def test_other_convolutions_stay_as_they_are(options):
    layer = nn.Conv2d(32, 32, **{"kernel_size": 3, **options})
    assert winograd.use_winograd(layer) == 0
    assert type(layer) is nn.Conv2d


def test_numbers_of_channels_that_do_not_fit_stay_as_they_are():
    assert winograd.use_winograd(nn.Conv2d(16, 32, 3, padding=1)) == 0
    assert winograd.use_winograd(nn.Conv2d(32, 48, 3, padding=1)) == 0


def test_autocast_runs_torchs_own_convolution():
    layer = nn.Conv2d(32, 32, 3, padding=1)
    plain = copy.deepcopy(layer)
    winograd.use_winograd(layer)
    x = torch.randn(1, 32, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), plain(x))


def test_a_network_keeps_names_parameters_and_function_and_counts_the_same_operations():
    torch.manual_seed(0)
    model = build_model(ModelSettings(arch="resnet8x4"), 10, 16)
    fast = copy.deepcopy(model)
    assert winograd.use_winograd(fast) == 4
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert list(fast.state_dict()) == list(model.state_dict())
    x = torch.randn(2, 3, 16, 16)
    counts = []
    for net in (model, fast):
        with FlopCounter() as counter:
            net(x)[0].sum().backward()
        counts.append(sum(count for name, count in counter.by_operator.items() if "mm" not in str(name)))
    assert counts[1] == counts[0] > 0
    model.eval(), fast.eval()
    expected, found = model(x)[0], fast(x)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.detach().abs().max()))


def test_without_a_compiler_the_network_runs_as_torchs(monkeypatch, caplog):
    winograd.library.cache_clear()
    monkeypatch.setattr(winograd.shutil, "which", lambda name: None)
    caplog.set_level("INFO", logger="kd")
    layer = nn.Conv2d(32, 32, 3, padding=1)
    try:
        assert winograd.use_winograd(layer) == winograd.use_winograd(layer) == 0
    finally:
        winograd.library.cache_clear()
    assert type(layer) is nn.Conv2d
    assert len(caplog.messages) == 1
    assert "no C compiler" in caplog.messages[0]


def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch, caplog, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    winograd.library.cache_clear()
    monkeypatch.setattr(winograd.shutil, "which", lambda name: str(broken))
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    caplog.set_level("INFO", logger="kd")
    try:
        assert winograd.library() is None
    finally:
        winograd.library.cache_clear()
    assert len(caplog.messages) == 1
    assert os.listdir(tmp_path / "cache") == []

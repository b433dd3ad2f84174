"""BatchNorm folded into convolutions computes the same function, whatever the network's layout."""

import pytest
import torch
from torch import nn

from kd.models.build import build_model
from kd.models.folding import folded
from kd.schema.config import ModelSettings

NETS = [
    "resnet8",
    "resnet8x4",
    "wrn_16_1",
    "vgg8",
    "MobileNetV2",
    "ShuffleV1",
    "ShuffleV2",
    "ResNet50",
    "MultiBranchNet",
    "timm:resnet18",
]


def network(arch):
    """Return a network whose statistics are those of no fresh BatchNorm."""
    torch.manual_seed(0)
    model = build_model(ModelSettings(arch=arch), 5, 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("arch", NETS)
def test_a_folded_network_gives_the_same_logits_and_taps(arch):
    model = network(arch)
    images = torch.randn(2, 3, 32, 32)
    other = torch.randn(3, 3, 32, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quick = folded(model, images)
    assert norms(quick) < norms(model)
    with torch.no_grad():
        (logits, taps), (own_logits, own_taps) = model(other, model.tap_names), quick(other, quick.tap_names)
    torch.testing.assert_close(own_logits, logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max()))
    for name, tap in taps.items():
        torch.testing.assert_close(own_taps[name], tap, rtol=1e-3, atol=1e-4 * float(tap.abs().max()), msg=name)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_convolution_that_something_else_reads_is_left_alone():
    """The stem of a pre-activation net feeds a BatchNorm and the shortcut beside it."""
    model = network("wrn_16_1")
    quick = folded(model, torch.randn(2, 3, 32, 32))
    assert 0 < norms(quick) < norms(model)


def test_layout_is_kept():
    model = network("resnet8").to(memory_format=torch.channels_last)
    quick = folded(model, torch.randn(2, 3, 32, 32))
    weights = [m.weight for m in quick.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)

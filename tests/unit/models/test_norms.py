"""The BatchNorm that a feature before an activation comes from."""

import pytest
import torch
from torch import nn

from kd.models.build import build_model
from kd.schema.config import ModelSettings

SIZE = 32
ZOO = ["resnet8", "resnet8x4", "ResNet50", "vgg8", "vgg13", "wrn_16_2", "ShuffleV1", "ShuffleV2", "MobileNetV2"]
ZOO += ["timm:test_resnet", "timm:resnet10t"]
UNKNOWN = {"ShuffleV2": {"stage1.pre", "stage2.pre", "stage3.pre"}}  # half of their channels pass by every BatchNorm


def net_of(arch):
    torch.manual_seed(0)
    return build_model(ModelSettings(arch=arch), 3, SIZE).eval()


@pytest.mark.parametrize("arch", ZOO)
def test_every_feature_before_an_activation_has_its_norm(arch):
    net = net_of(arch)
    _, features = net(torch.zeros(1, 3, SIZE, SIZE), net.tap_names)
    before = {tap for tap in net.tap_names if tap.endswith(".pre")}
    assert before
    for tap in net.tap_names:
        norm = net.norm_before(tap)
        if tap in before - UNKNOWN.get(arch, set()):
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.num_features == features[tap].shape[1]
        else:
            assert norm is None


@pytest.mark.parametrize("arch", [arch for arch in ZOO if arch != "ShuffleV2"])
def test_its_bias_shifts_that_feature_by_as_much_everywhere(arch):
    net, images = net_of(arch), torch.randn(2, 3, SIZE, SIZE)
    for tap in (tap for tap in net.tap_names if tap.endswith(".pre")):
        with torch.no_grad():
            before = net(images, (tap,))[1][tap]
            net.norm_before(tap).bias.add_(0.5)
            after = net(images, (tap,))[1][tap]
            net.norm_before(tap).bias.sub_(0.5)
        torch.testing.assert_close(after, before + 0.5)


def test_other_networks_name_none():
    net = build_model(ModelSettings(arch="timm:test_efficientnet"), 3, SIZE)
    assert not [tap for tap in net.tap_names if tap.endswith(".pre")]
    assert all(net.norm_before(tap) is None for tap in net.tap_names)

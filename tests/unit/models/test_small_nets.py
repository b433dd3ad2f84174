"""The small-image nets against the reference table, and their taps against a forward pass by hand."""

import importlib
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kd.models.build import build_model
from kd.schema.architectures import SMALL_NETS, module_of
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

REFERENCE = json.loads((Path(__file__).parents[2] / "data" / "small_image_nets.json").read_text(encoding="utf-8"))[
    "models"
]
BRANCHES = "MultiBranchNet"
"""A network of no published table: its numbers are worked out by hand."""
ONE_OF_EACH = ("resnet8", "ResNet50", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", BRANCHES)


def build(arch, classes=100, device="cpu"):
    torch.manual_seed(0)
    with torch.device(device):
        return importlib.import_module(module_of(arch)).build(arch, classes)


def test_the_table_and_the_reference_name_the_same_nets():
    assert set(SMALL_NETS) == {*REFERENCE, BRANCHES}


@pytest.mark.parametrize("arch", REFERENCE)
def test_counts_and_shapes_are_the_reference(arch):
    model = build(arch, device="meta")
    wanted = REFERENCE[arch]
    assert sum(p.numel() for p in model.parameters()) == wanted["parameters"]
    assert len(list(model.buffers())) == wanted["buffers_tensors"]
    taps = ("stem", *model.stage_taps, "embedding")
    logits, features = model(torch.empty(2, 3, 32, 32, device="meta"), taps)
    assert logits.shape == (2, 100)
    assert [list(features[tap].shape[1:]) for tap in taps] == wanted["feature_shapes"]


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_taps_change_nothing_and_come_in_the_order_asked(arch):
    model = build(arch, 10).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        plain, none = model(images)
        logits, features = model(images, tuple(reversed(model.tap_names)))
    assert none == {}
    assert list(features) == list(reversed(model.tap_names))
    torch.testing.assert_close(logits, plain, rtol=0, atol=0)
    torch.testing.assert_close(model.classifier(features["embedding"]), logits)


@pytest.mark.parametrize("arch", [arch for arch in ONE_OF_EACH if arch not in ("wrn_16_1", "vgg8", BRANCHES)])
def test_staged_nets_equal_a_forward_by_hand(arch):
    model = build(arch, 10).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        logits, features = model(images, model.tap_names)
        x = F.relu(model.stem(images))
        torch.testing.assert_close(features["stem"], x)
        for name, stage in zip(model.stage_taps, model.stages, strict=True):
            for block in stage:
                x = block(x) if arch == "MobileNetV2" else F.relu(block(x))
            torch.testing.assert_close(features[name], x)
        if model.neck is not None:
            x = F.relu(model.neck(x))
            torch.testing.assert_close(features["neck"], x)
        torch.testing.assert_close(logits, model.fc(x.mean((2, 3))))


def test_vgg_equals_a_forward_by_hand():
    model = build("vgg11", 10).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, features = model(x, model.tap_names)
        for number, name in enumerate(("stem", *model.stage_taps)):
            x = F.relu(model.groups[number](x))
            torch.testing.assert_close(features[name], x)
            x = nn.MaxPool2d(2)(x) if number < 3 else x
        torch.testing.assert_close(logits, model.fc(x.mean((2, 3))))


def test_branches_have_the_sizes_worked_out_by_hand():
    model = build(BRANCHES)
    convolutions = 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512)
    norms, gates, linear = 2 * (64 + 128 + 256 + 512), 3 + 5 + 5 + 5, 960 * 100 + 100
    assert sum(p.numel() for p in model.parameters()) == convolutions + norms + gates + linear
    _, features = model(torch.zeros(2, 3, 32, 32), model.tap_names)
    shapes = {name: tuple(value.shape[1:]) for name, value in features.items()}
    maps = {"stage1": (64, 32, 32), "stage2": (128, 16, 16), "stage3": (256, 8, 8), "stage4": (512, 4, 4)}
    assert shapes == {**maps, "embedding": (960,)}


def test_branches_equal_a_forward_by_hand_with_timms_channel_attention():
    from timm.layers import EcaModule

    model, x = build(BRANCHES, 10).eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        logits, features = model(x, model.tap_names)
        total, weights = model.fc.bias.clone(), model.fc.weight.split([64, 128, 256, 512], dim=1)
        for number, (name, stage, weight) in enumerate(zip(model.stage_taps, model.stages, weights, strict=True)):
            convolution, norm, _, attention = stage
            gate = EcaModule(norm.num_features)
            assert gate.conv.weight.shape == attention.conv.weight.shape
            gate.load_state_dict(attention.state_dict())
            x = gate(F.relu(norm(convolution(nn.MaxPool2d(2)(x) if number else x))))
            torch.testing.assert_close(features[name], x)
            total = total + x.mean((2, 3)) @ weight.T  # the branch's own classifier
        torch.testing.assert_close(logits, total)


def test_wrn_taps_raw_sums_and_their_normalised_twins():
    model = build("wrn_16_2", 10).eval()
    with torch.no_grad():
        _, features = model(torch.randn(2, 3, 32, 32), model.tap_names)
        norms = [model.stages[0][0].bn1, model.stages[1][0].bn1, model.stages[2][0].bn1, model.bn]
        for name, norm in zip(("stem", *model.stage_taps), norms, strict=True):
            torch.testing.assert_close(features[f"{name}.pre"], norm(features[name]))
        last = F.relu(features["stage3.pre"])
        torch.testing.assert_close(features["embedding"], last.mean((2, 3)))
        x = features["stage2"]
        for block in model.stages[2]:
            x = block(x, block.bn1(x))
        torch.testing.assert_close(x, features["stage3"])


def test_wrn_twins_update_batch_statistics_once():
    model = build("wrn_16_1", 10).train()
    model(torch.randn(4, 3, 8, 8), model.tap_names)
    assert {norm.num_batches_tracked.item() for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)} == {1}


@pytest.mark.parametrize("arch", [arch for arch in ONE_OF_EACH if arch != "wrn_16_1"])
def test_twins_are_the_values_before_the_activation(arch):
    model = build(arch, 10).train()  # train mode: an activation in place would show
    _, features = model(torch.randn(4, 3, 16, 16), model.tap_names)
    for name in [tap for tap in model.tap_names if f"{tap}.pre" in model.tap_names]:
        before, after = features[f"{name}.pre"], features[name]
        linear = arch == "MobileNetV2" and name in model.stage_taps  # linear bottlenecks have no activation
        torch.testing.assert_close(after, before if linear else F.relu(before), rtol=0, atol=0)
        assert (before < 0).any()


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_a_tap_asked_for_alone_is_what_it_is_among_all(arch):
    """What is not asked for may be overwritten in the forward pass; what is asked for may not."""
    model = build(arch, 10).train()
    images = torch.randn(2, 3, 16, 16)
    expected_logits, expected = model(images, model.tap_names)
    for tap in model.tap_names:
        logits, found = model(images, (tap,))
        assert torch.equal(found[tap], expected[tap]), tap
        assert torch.equal(logits, expected_logits)


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_every_parameter_learns_and_stands_in_one_block_or_the_head(arch):
    model = build(arch, 10).train()
    logits, features = model(torch.randn(4, 3, 16, 16), model.tap_names)
    (logits.square().sum() + sum(value.square().mean() for value in features.values())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    placed = [id(p) for part in (*model.blocks(), model.head()) for p in part.parameters()]
    assert sorted(placed) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_initial_logits_are_of_order_one(arch):
    model = build(arch, 10).train()
    with torch.no_grad():
        logits, _ = model(torch.randn(8, 3, 16, 16))
    assert 0.01 < logits.std() < 10


def test_an_unknown_tap_names_model_and_taps():
    with pytest.raises(UserError, match=r"unknown tap of resnet8 'stage4': .*did you mean 'stage.'.*embedding"):
        build("resnet8")(torch.zeros(1, 3, 8, 8), ("stage4",))


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("arch", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", BRANCHES])
def test_other_image_sizes(arch, size):
    model = build_model(ModelSettings(arch=arch), 10, size)
    assert model.training
    assert model(torch.zeros(2, 3, size, size))[0].shape == (2, 10)


def test_images_too_small_for_the_strides():
    with pytest.raises(UserError, match="vgg8 cannot process images of 4x4"):
        build_model(ModelSettings(arch="vgg8"), 10, 4)


def test_pretrained_true_needs_timm():
    with pytest.raises(UserError, match="pretrained: true needs a timm architecture, found resnet8"):
        build_model(ModelSettings(arch="resnet8", pretrained=True), 10, 8)


def test_the_seed_decides_the_weights():
    first, second = build("resnet8"), build("resnet8")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))

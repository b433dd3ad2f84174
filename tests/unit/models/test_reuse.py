"""Networks that are deployed with another network's classifier, and what a classifier reads the average of."""

import json

import pytest
import torch
from torch import nn

from kd.models.base import StagedNet, conv_bn, pool
from kd.models.build import build_model
from kd.models.freezing import freeze
from kd.models.reuse import (
    KEY,
    Facts,
    Pooled,
    ReusedHead,
    added_parameters,
    deployment,
    last_map,
    pooled_feature,
    redeploy,
)
from kd.models.weights import load_weights, read_state, save_weights
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

CLASSES, SIZE = 5, 32
FACTS = Facts("stage2", False, 4, 4, 6, 4, 8, True, CLASSES, True, "a teacher")


def net(width: int = 2) -> StagedNet:
    torch.manual_seed(0)
    stages = [nn.Sequential(conv_bn(width, 2 * width, 3)), nn.Sequential(conv_bn(2 * width, 3 * width, 3, 2))]
    return StagedNet("little", CLASSES, conv_bn(3, width, 3), stages, 3 * width)


def reused(facts: Facts = FACTS, trunk: StagedNet | None = None) -> ReusedHead:
    teacher = nn.Linear(facts.outputs, CLASSES)
    return ReusedHead(trunk or net(), facts).adopt(teacher)


def images(side: int = 8) -> torch.Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


# --- what a classifier reads ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "tap", "rectify", "nonnegative"),
    [
        ("resnet8", "stage3", False, True),
        ("vgg8", "stage4", False, True),
        ("wrn_16_1", "stage3.pre", True, True),
        ("MobileNetV2", "neck", False, True),
        ("ShuffleV1", "stage3", False, True),
        ("ShuffleV2", "neck", False, True),
        ("timm:test_resnet", "stage4", False, True),
        ("timm:test_efficientnet", "embedding", False, False),
        ("timm:test_vit", "embedding", False, False),
    ],
)
def test_the_feature_is_what_the_classifier_reads(arch, tap, rectify, nonnegative):
    torch.manual_seed(0)
    model = build_model(ModelSettings(arch=arch), CLASSES, SIZE).eval()
    found = pooled_feature(model, SIZE)
    assert found == Pooled(tap, rectify, nonnegative)
    with torch.no_grad():
        logits, taps = model(images(SIZE), (found.tap,))
        feature = found.of(taps)
        assert feature.ndim == 4
        torch.testing.assert_close(model.classifier(pool(feature)), logits, rtol=1e-4, atol=1e-4)
    assert (feature.min() >= 0) == nonnegative
    source = last_map(model, SIZE)
    assert source.tap == (model.stage_taps[-1] if tap in {"embedding", "neck"} else tap)


def test_looking_leaves_mode_and_statistics_alone():
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    pooled_feature(model, 8)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- the deployed network -------------------------------------------------------------------------


def test_logits_are_the_reused_classifier_of_the_projected_map():
    teacher = nn.Linear(8, CLASSES)
    trunk = net().eval()
    with torch.no_grad():
        _, inner = trunk(images(), ("stage2",))
        model = ReusedHead(trunk, FACTS).adopt(teacher).eval()
        logits, taps = model(images(), model.tap_names)
        projected = model.projector(inner["stage2"])
        assert torch.equal(taps["projected"], projected)
        assert torch.equal(taps["embedding"], projected.mean(dim=(2, 3)))
        torch.testing.assert_close(logits, teacher(projected.mean(dim=(2, 3))))
        assert torch.equal(taps["stage2"], inner["stage2"])
    assert (projected >= 0).all()
    assert model.tap_names == (*[tap for tap in net().tap_names if tap != "embedding"], "projected", "embedding")
    assert model.stage_taps == ("stage1", "stage2")
    assert isinstance(model.classifier, nn.Linear)


def test_the_map_is_averaged_to_the_teachers_size_and_may_be_rectified():
    facts = Facts("stage2.pre", True, 2, 3, 6, 4, 8, False, CLASSES, False, "a teacher")
    trunk = net().eval()
    with torch.no_grad():
        _, inner = trunk(images(), ("stage2",))
        model = ReusedHead(trunk, facts).adopt(nn.Linear(8, CLASSES, bias=False)).eval()
        _, taps = model(images(), ("projected",))
    assert taps["projected"].shape == (3, 8, 2, 3)
    pooled = nn.functional.adaptive_avg_pool2d(inner["stage2"], (2, 3))
    torch.testing.assert_close(taps["projected"], model.projector(pooled))
    assert (taps["projected"] < 0).any(), "no ReLU at the end"


def test_a_1x1_convolution_can_be_reused():
    teacher = nn.Conv2d(8, CLASSES, 1)
    model = ReusedHead(net(), FACTS).adopt(teacher)
    vector = torch.randn(2, 8)
    torch.testing.assert_close(model.classifier(vector), teacher(vector[:, :, None, None]).flatten(1))


def test_the_trunks_own_classifier_is_gone_and_parameters_are_counted_against_it():
    plain = sum(p.numel() for p in net().parameters())
    model = reused()
    assert not [name for name, _ in model.named_parameters() if name.startswith("trunk.fc")]
    assert added_parameters(model) == sum(p.numel() for p in model.parameters()) - plain
    projector = 6 * 4 + 4 * 4 * 9 + 4 * 8 + 2 * (4 + 4 + 8)
    assert added_parameters(model) == projector + (8 * CLASSES + CLASSES) - (6 * CLASSES + CLASSES)
    assert added_parameters(net()) == 0


def frozen(model):
    return {name for name, p in model.named_parameters() if not p.requires_grad}


def test_only_the_reused_classifier_never_trains():
    model = reused()
    assert frozen(model) == {"fc.weight", "fc.bias"}
    model.requires_grad_(True)
    assert frozen(model) == {"fc.weight", "fc.bias"}
    freeze(model, -1)
    assert frozen(model) == {"fc.weight", "fc.bias"}
    freeze(model, 0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("projector")}


def test_a_loss_reaches_trunk_and_projector():
    model = reused().train()
    model(images())[0].square().sum().backward()
    missing = {name for name, p in model.named_parameters() if p.grad is None}
    assert missing == {"fc.weight", "fc.bias"}


def test_frozen_statistics_of_the_trunk_stay_frozen():
    trunk = net()
    freeze(trunk, 1)
    model = reused(trunk=trunk).train()
    assert not trunk.stem[1].training
    assert trunk.stages[1][0][1].training
    assert model.projector.training


# --- from a checkpoint ----------------------------------------------------------------------------


def test_a_checkpoint_rebuilds_the_network_and_its_logits(tmp_path):
    model = reused().eval()
    metadata = {"epoch": "3", **deployment(model)}
    save_weights(model, tmp_path / "best.safetensors", metadata)
    _, found = read_state(tmp_path / "best.safetensors")
    assert json.loads(found[KEY])["teacher"] == "a teacher"
    torch.manual_seed(9)
    rebuilt = redeploy(net(), found)
    load_weights(rebuilt, tmp_path / "best.safetensors")
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images())[0], model(images())[0])
    assert frozen(rebuilt) == {"fc.weight", "fc.bias"}


def test_a_plain_network_is_left_as_it_is():
    model = net()
    assert deployment(model) == {}
    assert redeploy(model, {"arch": "little"}) is model


@pytest.mark.parametrize("entry", ["no json", "[]", '{"tap": "stage2"}', '{"surplus": 1}'])
def test_metadata_that_describe_no_network_are_a_user_error(entry):
    with pytest.raises(UserError, match="'reused_head' describes no network"):
        redeploy(net(), {KEY: entry})


def test_a_checkpoint_of_a_deployed_network_does_not_pass_for_a_plain_one(tmp_path):
    save_weights(reused(), tmp_path / "best.safetensors")
    with pytest.raises(
        UserError, match=r"does not fit little \(the file holds little with the classifier of a teacher"
    ):
        load_weights(net(), tmp_path / "best.safetensors")


def test_a_deployed_network_can_teach():
    """Its classifier reads the projected map, which another student may take over in turn."""
    model = reused().eval()
    assert pooled_feature(model, 8) == Pooled("projected", False, True)

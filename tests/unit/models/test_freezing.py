"""Freeze levels mean the same for every architecture; frozen BatchNorm does not move."""

import copy

import pytest
import torch
from torch import nn

from kd.models.adapters import adapter_of, add_adapter
from kd.models.build import build_model
from kd.models.freezing import LAYER_NORMS, Freezing, apply_freezing, freeze, keep_frozen_in_eval, refuse_frozen_draws
from kd.models.weights import save_weights
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

ARCHS = {
    "resnet8": 4,
    "wrn_16_1": 4,
    "ShuffleV2": 4,
    "timm:test_resnet": 5,
    "timm:test_efficientnet": None,
    "timm:test_vit": 7,
    "timm:test_convnext": 5,
}


@pytest.fixture(scope="module", params=ARCHS)
def model(request):
    torch.manual_seed(0)
    return build_model(ModelSettings(arch=request.param), 10, 32)


def trained(model):
    return {id(p) for p in model.parameters() if p.requires_grad}


def parameters_of(*parts):
    return {id(p) for part in parts for p in part.parameters()}


def test_number_of_blocks(model):
    expected = ARCHS[model.arch]
    assert expected is None or len(model.blocks()) == expected


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_last_blocks_and_the_head_train(model, level):
    freeze(model, level)
    blocks = model.blocks()
    assert trained(model) == parameters_of(model.head(), *blocks[len(blocks) - level :])
    assert parameters_of(model.classifier) <= trained(model)


def test_minus_one_and_all_blocks_train_everything(model):
    for level in (0, -1, 1, len(model.blocks())):
        freeze(model, level)
        assert (len(trained(model)) == len(list(model.parameters()))) == (level not in (0, 1))


@pytest.mark.parametrize("level", [-2, 99])
def test_a_level_beyond_the_blocks(model, level):
    with pytest.raises(UserError, match=f"freeze: {level} .* allowed are -1 to {len(model.blocks())}"):
        freeze(model, level)


@pytest.mark.parametrize(("level", "freeze_bn"), [(0, False), (1, False), (1, True), (-1, True), (-1, False)])
def test_running_statistics_move_only_where_not_frozen(model, level, freeze_bn):
    model = copy.deepcopy(model)
    freeze(model, level, freeze_bn)
    model = copy.deepcopy(model)  # an average of weights must stay frozen too
    model.train()
    keep_frozen_in_eval(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    model(torch.randn(4, 3, 32, 32))
    free = (
        set(map(id, model.modules())) if level == -1 else set(map(id, model.blocks()[-1].modules())) if level else set()
    )
    for norm, mean in zip(norms, before, strict=True):
        moves = id(norm) in free and not freeze_bn
        assert norm.training == moves
        assert torch.equal(norm.running_mean, mean) != moves
        assert norm.weight.requires_grad == moves


def test_frozen_weights_do_not_move(model):
    freeze(model, 0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)  # holds frozen parameters as well
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.randn(4, 3, 32, 32))[0].sum().backward()
    optimiser.step()
    moved = {id(p) for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == parameters_of(model.head())
    optimiser.zero_grad()


@pytest.mark.parametrize(
    ("arch", "last", "before"),
    [
        ("timm:resnet18", ("net.layer4",), ("net.layer3",)),
        ("timm:efficientnet_lite0", ("net.blocks.6", "net.conv_head", "net.bn2"), ("net.blocks.5",)),
        ("timm:swin_tiny_patch4_window7_224", ("net.layers.3", "net.norm"), ("net.layers.2",)),
        ("timm:test_convnext", ("net.stages.3", "net.head.norm"), ("net.stages.2",)),
        ("timm:test_vit", ("net.blocks.5", "net.norm"), ("net.blocks.4",)),
    ],
)
def test_what_the_last_blocks_are_by_family(arch, last, before):
    model = build_model(ModelSettings(arch=arch), 10, 32)
    names = {id(p): name for name, p in model.named_parameters()}
    head = parameters_of(model.head())
    for level, expected in ((1, last), (2, (*last, *before))):
        freeze(model, level)
        found = {names[p] for p in trained(model) - head}
        assert found == {name for name in names.values() if name.startswith(tuple(f"{part}." for part in expected))}


NORM_KINDS = {"batch_norms": nn.BatchNorm2d, "layer_norms": LAYER_NORMS}


@pytest.mark.parametrize("which", NORM_KINDS)
@pytest.mark.parametrize(("choice", "level"), [("all", -1), ("none", 0), ("blocks", 1)])
def test_norms_follow_their_blocks_or_all_of_them_do_not(model, which, choice, level):
    apply_freezing(model, Freezing(level, **{which: choice}))
    norms = [module for module in model.modules() if isinstance(module, NORM_KINDS[which])]
    in_last = {id(module) for module in model.blocks()[-1].modules()}
    for norm in norms:
        expected = choice == "none" or (choice == "blocks" and id(norm) in in_last)
        assert all(p.requires_grad == expected for p in norm.parameters())
    others = [module for module in model.modules() if not list(module.children()) and module not in norms]
    weights = [module.weight for module in others if isinstance(module, nn.Conv2d | nn.Linear)]
    assert all(weight.requires_grad for weight in weights) == (level == -1)


def test_an_unfreeze_gives_back_every_parameter(model):
    apply_freezing(model, Freezing(0, "all", "all"))
    apply_freezing(model, Freezing(-1))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("arch", ["resnet8", "wrn_16_1", "timm:test_resnet"])
def test_a_residual_adapter_trains_at_every_level(arch):
    plain = build_model(ModelSettings(arch=arch), 10, 32)
    _, taps = plain.eval()(torch.zeros(1, 3, 32, 32), plain.tap_names)
    model = add_adapter(plain, {name: tap.shape[1:] for name, tap in taps.items()})
    apply_freezing(model, Freezing(0))
    adapter = adapter_of(model)
    assert parameters_of(adapter, model.head()) == trained(model)


@pytest.mark.parametrize(
    ("arch", "level", "freeze_bn", "name"),
    [
        ("resnet8", 0, False, "stem.0.weight"),
        ("resnet8", 1, False, "stem.0.weight"),
        ("resnet8", -1, True, "stem.1.weight"),
        ("timm:test_resnet", 0, True, "net.conv1.0.weight"),
    ],
    ids=["head", "last-block", "norms", "timm"],
)
def test_what_was_drawn_at_random_is_not_frozen(tmp_path, arch, level, freeze_bn, name):
    fresh = build_model(ModelSettings(arch=arch), 10, 32)
    freeze(fresh, level, freeze_bn)
    with pytest.raises(UserError, match=f"^freeze: {arch} would keep {name} as it was drawn at random"):
        refuse_frozen_draws(fresh)
    save_weights(build_model(ModelSettings(arch=arch), 7, 32), tmp_path / "w.safetensors")
    trained = build_model(ModelSettings(arch=arch, pretrained=str(tmp_path / "w.safetensors")), 10, 32)
    freeze(trained, level, freeze_bn)
    refuse_frozen_draws(trained)  # the head is fresh, and trains


@pytest.mark.parametrize("arch", ["resnet8", "timm:test_resnet"])
def test_a_net_that_trains_whole_may_be_fresh(arch):
    fresh = build_model(ModelSettings(arch=arch), 10, 32)
    freeze(fresh, -1)
    refuse_frozen_draws(fresh)


@pytest.mark.parametrize("small", [True, False], ids=["small", "large"])
def test_the_first_layer_of_a_pretrained_resnet_is_frozen_as_it_was_learnt(tmp_path, small):
    path = tmp_path / "w.safetensors"
    save_weights(build_model(ModelSettings(arch="timm:resnet18", small_input=False), 7, 32), path)
    settings = ModelSettings(arch="timm:resnet18", pretrained=str(path), small_input=small, freeze=0, freeze_bn=True)
    kernels = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = build_model(settings, 10, 32)
        freeze(model, settings.freeze, settings.freeze_bn)
        refuse_frozen_draws(model)
        kernels.append(model.net.conv1.weight)
    assert torch.equal(*kernels)

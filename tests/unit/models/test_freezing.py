"""Freeze levels mean the same for every architecture; frozen BatchNorm does not move."""

import copy

import pytest
import torch
from torch import nn

from kd.models.build import build_model
from kd.models.freezing import freeze, keep_frozen_in_eval
from kd.spec.config import ModelSettings
from kd.spec.errors import UserError

ARCHS = {
    "resnet8": 4,
    "wrn_16_1": 4,
    "ShuffleV2": 4,
    "timm:test_resnet": 5,
    "timm:test_efficientnet": None,
    "timm:test_vit": 7,
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

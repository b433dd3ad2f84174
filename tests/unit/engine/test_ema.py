"""Averaged weights and their decay."""

import pytest
import torch
from torch import nn

from kd.engine.ema import EMA
from kd.engine.timetable import ema_decay
from kd.schema.config import Recipe


@pytest.mark.parametrize("step", [1 - 0.9, torch.tensor(1 - 0.9, dtype=torch.float64)], ids=["number", "tensor"])
def test_ema_moves_by_its_decay_and_copies_buffers(step):
    model = nn.BatchNorm1d(2)
    ema = EMA(model)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(3.0)
    ema.update(model, step)
    assert torch.equal(ema.model.weight, torch.ones(2).lerp(model.weight.detach(), 1 - 0.9))
    assert torch.equal(ema.model.running_mean, model.running_mean)


@pytest.mark.parametrize(("epoch", "expected"), [(0.0, 0.9), (2.5, 0.945), (5.0, 0.99), (9.0, 0.99)])
def test_ema_decay_rises_on_a_line(epoch, expected):
    recipe = Recipe(epochs=10, ema_decay=0.99, ema_start_decay=0.9)
    assert ema_decay(recipe, epoch) == pytest.approx(expected)
    assert ema_decay(Recipe(epochs=10, ema_decay=0.99), epoch) == 0.99

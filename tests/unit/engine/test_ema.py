"""Averaged weights and their decay."""

import pytest
import torch
from torch import nn

from kd.engine.ema import EMA
from kd.engine.timetable import ema_decay
from kd.schema.config import Recipe


def test_ema_moves_by_its_decay_and_copies_buffers():
    model = nn.BatchNorm1d(2)
    ema = EMA(model)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(3.0)
    ema.update(model, 0.9)
    assert torch.allclose(ema.model.weight, torch.full((2,), 1.1))
    assert torch.equal(ema.model.running_mean, model.running_mean)


@pytest.mark.parametrize(("epoch", "expected"), [(0.0, 0.9), (2.5, 0.945), (5.0, 0.99), (9.0, 0.99)])
def test_ema_decay_rises_on_a_line(epoch, expected):
    recipe = Recipe(epochs=10, ema_decay=0.99, ema_start_decay=0.9)
    assert ema_decay(recipe, epoch) == pytest.approx(expected)
    assert ema_decay(Recipe(epochs=10, ema_decay=0.99), epoch) == 0.99

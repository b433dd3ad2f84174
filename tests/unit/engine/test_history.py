"""Sums over an epoch."""

import math

import pytest
import torch

from kd.engine.history import Sums
from kd.tools.errors import DivergenceError

CPU = torch.device("cpu")


def test_sums_average_over_images_and_name_the_first_bad_step():
    sums = Sums(CPU)
    sums.add("loss", torch.tensor(1.0), 64)
    sums.add("loss", torch.tensor(4.0), 32)
    assert sums.means() == {"loss": 2.0}
    for step, value in enumerate([1.0, math.nan, math.inf]):
        sums.watch("kd", torch.tensor(value), step)
    with pytest.raises(DivergenceError, match="loss kd was not finite at step 2 of 3 in epoch 7"):
        sums.check(7, 3)

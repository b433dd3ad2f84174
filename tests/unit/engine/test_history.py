"""Sums over an epoch."""

import math

import pytest
import torch

from kd.engine.history import Sums
from kd.tools.errors import DivergenceError

CPU = torch.device("cpu")


def test_sums_average_over_images_and_name_the_first_bad_step():
    sums = Sums(CPU)
    for _ in range(2):  # the second epoch knows nothing of the first
        sums.begin()
        sums.add({"loss": torch.tensor(1.0), "kd": torch.tensor(-0.0)}, 64)
        sums.add({"loss": torch.tensor(4.0), "kd": torch.tensor(-0.0)}, 32)
        assert str(sums.means()) == "{'loss': 2.0, 'kd': -0.0}"
        sums.check(6, 2)
        for step, value in enumerate([1.0, math.nan, math.inf]):
            sums.watch({"ce": torch.tensor(1.0), "kd": torch.tensor(value)}, torch.tensor([step]))
        with pytest.raises(DivergenceError, match="loss kd was not finite at step 2 of 3 in epoch 7"):
            sums.check(7, 3)


def test_sums_stay_where_they_are():
    """A graph of a step adds to the memory that it has seen."""
    sums, places = Sums(CPU), []
    for step in range(3):
        sums.begin()
        sums.add({"loss": torch.tensor(1.0)}, 4)
        sums.watch({"loss": torch.tensor(1.0)}, torch.tensor([step]))
        held = [*sums._sums.values(), *sums._bad_rows.values()]
        places.append([value.data_ptr() for value in held])
    assert places[0] == places[1] == places[2]

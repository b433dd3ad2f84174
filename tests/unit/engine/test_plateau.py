"""The schedule that ends when validation says so."""

import pytest
import torch
from safetensors.torch import load_file

from kd.engine.plateau import Plateau
from kd.schema.config import Recipe

PLATEAU = {"epochs": 40, "schedule": "plateau", "patience": 1, "lr_drops": 2, "lr": 0.3}


def test_patience_and_drops_are_counted():
    plateau = Plateau(Recipe(epochs=99, schedule="plateau", patience=2, lr_drops=1))
    assert [plateau.improved(value) for value in (10.0, 9.0)] == [True, False]
    assert not plateau.due
    plateau.improved(10.0)  # as good is not better
    assert plateau.due
    assert not plateau.over
    plateau.drop()
    assert plateau.improved(11.0)
    plateau.improved(1.0)
    plateau.improved(1.0)
    assert plateau.over


def test_training_goes_back_to_the_best_weights_drops_lr_and_ends(world):
    here = world("ce", recipe=PLATEAU)
    result = here.train()
    rates = [row["lr"] for row in result.rows]
    tops = [row["val_top1"] for row in result.rows]
    assert sorted(set(rates), reverse=True) == pytest.approx([0.3 * 0.1**k for k in range(3)])
    assert rates == sorted(rates, reverse=True)
    assert len(result.rows) < 40
    best = max(range(len(tops)), key=lambda k: (tops[k], -k))
    assert result.best_epoch == best + 1
    # every drop follows an epoch that was not better, and the last epoch of all was not better either
    drops = [k for k in range(1, len(rates)) if rates[k] < rates[k - 1]]
    assert len(drops) == 2
    assert all(tops[k - 1] <= max(tops[: k - 1]) for k in drops)
    assert tops[-1] <= max(tops[:-1])


def test_an_interrupted_plateau_ends_bit_identical(world):
    here = world("kd", recipe=PLATEAU)
    whole = here.train("whole")

    class Interrupted(Exception):
        pass

    def stop(row):
        if row["epoch"] == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        here.train("broken", stop)
    resumed = here.train("broken")
    shown = [[(row["val_top1"], row["lr"]) for row in result.rows] for result in (whole, resumed)]
    assert shown[0] == shown[1]
    for name in ("best", "last"):
        a, b = (load_file(here.folder / run / "checkpoints" / f"{name}.safetensors") for run in ("whole", "broken"))
        assert all(torch.equal(a[key], b[key]) for key in a)

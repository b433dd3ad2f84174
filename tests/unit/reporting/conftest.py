"""Made-up experiments on disk, as `made_up.World` builds them."""

import numpy as np
import pytest
from made_up import World, make_card


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def small(world):
    """Teachers, ce, kd, a variant, a method with one failed seed and one that is missing altogether."""
    world.cards = {
        "kd": make_card(
            "kd",
            [
                {"teacher": "big", "student": "small", "top1": 74.92, "epoch": "last", "source": "Paper A, table 1"},
                {"teacher": "big", "student": "small", "top1": 75.5, "epoch": "best", "source": "Paper B"},
                {"teacher": "other", "student": "small", "top1": 1.0, "epoch": "last", "source": "another pair"},
            ],
        ),
        "ce": make_card("ce", [{"teacher": "-", "student": "small", "top1": 73.26, "epoch": "last", "source": "A"}]),
    }
    world.teachers(range(3)).method("ce", [70.0, 71.0, 72.0]).method("kd", [73.0, 74.5, 74.0], 60.0)
    world.method("kd_t8", [73.1, 74.4, 74.1], 60.0, base="kd").method("crd", [74.0, None, 75.0], 500.0, broken={1})
    return world.method("ft", [None, None, None]).analyse()


@pytest.fixture
def many(world):
    """Thirty methods with close accuracies and costs."""
    generator = np.random.default_rng(0)
    world.teachers(range(3)).method("ce", [70.0, 70.8, 70.4], 30.0).method("kd", [72.0, 72.6, 72.1], 40.0)
    for index in range(28):
        scores = (72 + 1.2 * generator.standard_normal() + 0.4 * generator.standard_normal(3)).tolist()
        world.method(f"method{index:02d}", scores, float(40 * np.exp(generator.random() * 3)))
    return world.analyse()

"""Seeds of streams."""

from kd.engine.seeds import derived_seed


def test_seeds_of_different_purposes_differ():
    seeds = {derived_seed(seed, purpose) for seed in range(50) for purpose in ("order", "augmentation", "student")}
    assert len(seeds) == 150

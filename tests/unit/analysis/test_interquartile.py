"""Interquartile means: those of rliable, and intervals that cover what they should with few seeds."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kd.analysis.interquartile import bootstrap_error, interquartile, spread

OUTSIDE = json.loads((Path(__file__).parents[2] / "data" / "outside" / "across.json").read_text(encoding="utf-8"))


def test_one_run_a_place_is_rliables_mean():
    found = [interquartile([[score] for score in scores], 0.95).iqm for scores in np.transpose(OUTSIDE["scores"])]
    assert found == pytest.approx(OUTSIDE["iqm"])
    alone = interquartile([[70.0], [71.0, 72.0]], 0.95)
    assert (alone.iqm_low, alone.iqm_high) == (None, None)


@pytest.mark.parametrize("case", OUTSIDE["runs"], ids=["three", "four"])
def test_several_runs_a_place_are_rliables_mean(case):
    assert interquartile(np.transpose(case["scores"]).tolist(), 0.95).iqm == pytest.approx(case["iqm"])


def test_places_weigh_the_same_whatever_their_seeds():
    assert interquartile([[10.0] * 3, [20.0] * 2], 0.95).iqm == 15.0
    assert interquartile([[10.0] * 7, [20.0] * 9, [30.0] * 11], 0.95).iqm == pytest.approx(20.0)
    assert (spread([3, 3]), spread([2, 3]), spread([997, 998, 999])) == (3, 6, 999)


def test_the_error_of_one_place_is_that_of_its_mean():
    """Three runs leave no quarter out, so that the interquartile mean is the mean."""
    values = np.array([70.0, 71.0, 73.0])
    assert bootstrap_error([values], [[0]]) == pytest.approx(stats.sem(values), rel=0.05)
    found = interquartile([values.tolist()], 0.95)
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert (found.iqm_low, found.iqm_high) == (
        pytest.approx(214 / 3 - half, abs=0.3),
        pytest.approx(214 / 3 + half, abs=0.3),
    )


def test_the_same_runs_give_the_same_interval_in_any_order():
    one = interquartile([[70.0, 71.0, 73.0], [60.0, 62.0, 61.0]], 0.95)
    assert one == interquartile([[73.0, 70.0, 71.0], [62.0, 60.0, 61.0]], 0.95)


@pytest.mark.parametrize(("places", "seeds"), [(4, 3), (3, 5)])
def test_intervals_cover_what_they_say(monkeypatch, places, seeds):
    """Places of other levels and other spreads; what is sought is what as many runs give on average."""
    monkeypatch.setattr("kd.analysis.interquartile.DRAWS", 200)
    generator = np.random.default_rng(places)
    covered = []
    for _ in range(5):
        level, spreads = generator.normal(70, 6, (places, 1)), np.exp(generator.normal(0, 0.6, (places, 1)))
        endless = level + spreads * generator.standard_normal((2000, places, seeds))
        truth = stats.trim_mean(endless.reshape(2000, -1), 0.25, axis=1).mean()
        for _ in range(50):
            found = interquartile((level + spreads * generator.standard_normal((places, seeds))).tolist(), 0.95)
            covered.append(found.iqm_low <= truth <= found.iqm_high)
    assert np.mean(covered) == pytest.approx(0.955, abs=0.035)


def test_places_that_share_their_seeds_tell_of_no_further_ones():
    """Three places of one data set in which a seed does well or badly everywhere."""
    generator, rounds, covered = np.random.default_rng(0), 200, {"one": 0, "own": 0}
    for _ in range(rounds):
        places = (70 + generator.standard_normal(5) + 0.2 * generator.standard_normal((3, 5))).tolist()
        for name, blocks in (("one", ["d"] * 3), ("own", None)):
            found = interquartile(places, 0.95, blocks)
            covered[name] += found.iqm_low <= 70 <= found.iqm_high
    assert covered["one"] / rounds > 0.95 - 4 * (0.95 * 0.05 / rounds) ** 0.5
    assert covered["own"] / rounds < 0.85, "taken for independent, they cover too little: the test can tell"


def test_places_of_a_block_with_other_numbers_of_runs_have_no_interval():
    found = interquartile([[70.0, 71.0, 73.0], [60.0, 62.0]], 0.95, ["d", "d"])
    assert (found.iqm_low, found.iqm_high) == (None, None)
    assert interquartile([[70.0, 71.0, 73.0], [60.0, 62.0]], 0.95, ["d", "e"]).iqm_low is not None

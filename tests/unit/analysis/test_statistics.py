import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.analysis.statistics import (
    Estimate,
    Summary,
    can_tell,
    holm,
    holm_by,
    improvement,
    over_strata,
    paired_difference,
    pooled_sd,
    seeds_needed,
    sign_flip_p,
    summarise,
    t_power,
    t_quantile,
    verdict,
    wilson,
)

OUTSIDE = json.loads((Path(__file__).parents[2] / "data" / "outside" / "across.json").read_text(encoding="utf-8"))

quarters = st.integers(-40, 40).map(lambda value: value / 4)


@pytest.mark.parametrize(
    ("confidence", "freedom", "value"), [(0.95, 1, 12.7062), (0.95, 2, 4.30265), (0.9, 4, 2.13185), (0.99, 9, 3.24984)]
)
def test_t_quantiles_of_the_printed_table(confidence, freedom, value):
    assert t_quantile(confidence, freedom) == pytest.approx(value, abs=5e-5)


def test_interval_by_hand_and_by_scipy():
    from scipy import stats

    values = [70.0, 71.0, 73.0]  # mean 71.3333, sd sqrt(7/3), half-width 4.30265 * sd / sqrt(3)
    found = summarise(values, 0.95)
    assert found.mean == pytest.approx(214 / 3)
    assert found.sd == pytest.approx(math.sqrt(7 / 3))
    assert found.half_width == pytest.approx(4.302653 * math.sqrt(7) / 3, rel=1e-6)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval_and_none_has_no_mean():
    unknown = dict.fromkeys(["sd", "half_width", "low", "high"])
    assert summarise([70.0], 0.95) == Summary(n=1, mean=70.0, **unknown)
    assert summarise([], 0.95) == Summary(n=0, mean=None, **unknown)
    alone = paired_difference({0: 71.0}, {0: 70.0, 1: 60.0}, 0.95)
    assert (alone.n, alone.mean, alone.low, alone.p) == (1, 1.0, None, None)


def test_coverage_is_nominal():
    generator = np.random.default_rng(0)
    samples = generator.standard_normal((1500, 3))
    covered = [abs(one.mean) <= one.half_width for one in (summarise(row, 0.95) for row in samples.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def brute_force(differences):
    observed = abs(sum(differences))
    signs = list(itertools.product([1, -1], repeat=len(differences)))
    sums = [abs(sum(sign * value for sign, value in zip(row, differences, strict=True))) for row in signs]
    return sum(value >= observed - 1e-9 for value in sums) / len(sums)


@settings(max_examples=60, deadline=None)
@given(st.lists(quarters, min_size=2, max_size=7))
def test_sign_flip_is_the_brute_force_count(differences):
    assert sign_flip_p(differences) == (brute_force(differences), True)


@settings(max_examples=40, deadline=None)
@given(st.lists(quarters, min_size=2, max_size=7), st.randoms())
def test_sign_flip_knows_neither_order_nor_direction_nor_scale(differences, random):
    shuffled = random.sample(differences, len(differences))
    expected = sign_flip_p(differences)
    assert sign_flip_p(shuffled) == expected
    assert sign_flip_p([-3 * value for value in differences]) == expected


@pytest.mark.parametrize("n", [2, 3, 5, 16])
def test_smallest_p_is_two_in_all_patterns(n):
    assert sign_flip_p([0.3] * n) == (2 / 2**n, True)


def test_rounding_does_not_break_ties():
    assert sign_flip_p([0.1, 0.2, 0.3])[0] == 0.25
    assert sign_flip_p([0.0, 0.0, 0.0])[0] == 1.0
    assert sign_flip_p([71.2 - 71.1, 71.1 - 71.2])[0] == 1.0


def test_many_seeds_use_seeded_flips_and_say_so():
    differences = np.random.default_rng(1).normal(0.2, 1, 17).tolist()
    p, exact = sign_flip_p(differences)
    assert not exact
    assert (p, exact) == sign_flip_p(differences)
    assert 0 < p <= 1
    found = paired_difference(dict(enumerate(differences)), dict.fromkeys(range(17), 0.0), 0.95)
    assert (found.p_exact, found.flips) == (False, 10_000)
    from scipy import stats

    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.05)


def test_holm_by_hand():
    # 0.01*4, 0.02*3 = 0.06, 0.03*2 = 0.06, 0.5*1
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


def test_what_has_no_p_value_corrects_nothing():
    assert holm_by({"a": 0.02, "b": None, "c": 0.5}) == {"a": 0.04, "c": 0.5}
    assert holm_by({"a": None}) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_only_raises(p_values):
    adjusted = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert [adjusted[index] for index in order] == sorted(adjusted)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(quarters, quarters), min_size=2, max_size=6), quarters)
def test_paired_differences_do_not_see_what_a_seed_shares(pairs, shift):
    """Adding a constant to both members of a pair, as a lucky split does, changes nothing."""
    first, second = (dict(enumerate(values)) for values in zip(*pairs, strict=True))
    moved = [{seed: value + shift * seed for seed, value in one.items()} for one in (first, second)]
    assert paired_difference(*moved, 0.95) == paired_difference(first, second, 0.95)


# --- several strata -------------------------------------------------------------------------------


def test_one_stratum_is_the_t_interval_and_two_are_welchs():
    from scipy import stats

    first, second = [1.0, 2.0, 2.4], [0.5, 4.0, 3.0, 1.0]
    alone, both = over_strata([first]), over_strata([first, second])
    assert alone.half_width(0.95) == pytest.approx(summarise(first, 0.95).half_width)
    welch = stats.ttest_ind(first, [-value for value in second], equal_var=False)
    assert both.freedom == pytest.approx(welch.df)
    low, high = welch.confidence_interval(0.9)
    assert (both.mean, both.half_width(0.9)) == (pytest.approx((low + high) / 4), pytest.approx((high - low) / 4))
    assert over_strata([[1.0, 1.0], [2.0, 2.0]]) == Estimate(1.5, 0.0, 2.0)


@pytest.mark.parametrize("strata", [[], [[1.0, 2.0], [3.0]], [[]]], ids=["none", "one value", "no value"])
def test_strata_of_one_value_have_no_spread(strata):
    assert over_strata(strata) is None


def test_below_is_one_sided_and_corrected():
    """By the printed table: one-sided 5 % of two degrees of freedom is 2.920, 1 % is 6.965."""
    assert Estimate(-2.93, 1.0, 2).is_below(0.95, 1)
    assert not Estimate(-2.91, 1.0, 2).is_below(0.95, 1)
    assert Estimate(-6.97, 1.0, 2).is_below(0.95, 5)
    assert not Estimate(-6.96, 1.0, 2).is_below(0.95, 5)
    assert not Estimate(5.0, 1.0, 2).is_below(0.95, 1)
    assert not Estimate(-5.0, 0.0, 2).is_below(0.95, 1), "seeds that all say the same tell nothing of their spread"


def test_intervals_over_strata_of_unequal_spread_cover_what_they_say():
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(800):
        spreads = np.exp(generator.normal(0, 0.5, (4, 1)))
        found = over_strata((1.0 + spreads * generator.standard_normal((4, 3))).tolist())
        covered.append(abs(found.mean - 1.0) <= found.half_width(0.95))
    assert np.mean(covered) == pytest.approx(0.955, abs=0.02)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_truly_best_is_rarely_placed_below_the_best_mean(seeds):
    """Twelve methods, three as good as each other: the mean that is picked is the best by chance."""
    generator = np.random.default_rng(seeds)
    truth = np.array([0.0] * 3 + [-0.4] * 3 + [-3.0] * 6)
    kept, placed = [], []
    for _ in range(400):
        runs = truth + generator.standard_normal((seeds, 1)) + 0.2 * generator.standard_normal((seeds, 12))
        best = runs.mean(axis=0).argmax()
        below = [over_strata([(runs[:, one] - runs[:, best]).tolist()]).is_below(0.95, 11) for one in (0, 11)]
        kept.append(not below[0])
        placed.append(below[1])
    assert np.mean(kept) > 0.95
    assert np.mean(placed) > {2: 0.02, 3: 0.5, 5: 0.95}[seeds]


# --- shares won -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("won", "trials", "confidence", "low", "high"), OUTSIDE["wilson"])
def test_shares_have_the_score_interval_of_statsmodels(won, trials, confidence, low, high):
    assert wilson(won / trials, trials, confidence) == (pytest.approx(low, abs=1e-8), pytest.approx(high, abs=1e-8))


def test_the_probability_of_improvement_counts_ties_half_and_places_alike():
    found = improvement([[1.0, 0.0, -1.0, 2.0], [1.0]], 0.95)
    assert found.won == (2.5 / 4 + 1) / 2
    assert (found.won_low, found.won_high) == wilson(found.won, 4 / (1 / 4 + 1), 0.95)
    sure = improvement([[1.0, 2.0, 0.5]], 0.95)
    assert (sure.won, sure.won_high, sure.won_low) == (1.0, 1.0, pytest.approx(0.4385, abs=1e-4))
    assert improvement([[], []], 0.95).won is improvement([], 0.95).won_low is None


def test_shares_cover_what_they_say():
    """On average over all probabilities, for no interval of so few counts covers each of them alike."""
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(3000):
        truth = generator.random()
        low, high = wilson(generator.binomial(9, truth) / 9, 9, 0.95)
        covered.append(low <= truth <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


# --- what matters, and seeds for it -----------------------------------------------------------------


def interval(low, high, sd=1.0):
    return Summary(n=3, mean=(low + high) / 2, sd=sd, half_width=(high - low) / 2, low=low, high=high)


@pytest.mark.parametrize(
    ("low", "high", "rope", "said"),
    [
        (0.6, 2.0, 0.5, "better"),
        (0.5, 2.0, 0.5, "open"),
        (-2.0, -0.6, 0.5, "worse"),
        (-0.5, 0.4, 0.5, "equal"),
        (-0.6, 0.4, 0.5, "open"),
        (0.1, 0.4, 0.5, "equal"),
        (0.1, 0.4, 0.0, "better"),
        (-0.1, 0.4, 0.0, "open"),
    ],
)
def test_a_verdict_by_the_interval_and_what_makes_no_difference(low, high, rope, said):
    assert verdict(interval(low, high), rope) == said
    turned = {"better": "worse", "worse": "better"}.get(said, said)
    assert verdict(interval(low, high), rope, "down") == turned
    assert verdict(interval(low, high, sd=0.0), rope) == "open"
    assert verdict(summarise([1.0], 0.95), rope) is None


@pytest.mark.parametrize(("sd", "difference", "confidence", "seeds"), OUTSIDE["seeds_needed"])
def test_seeds_needed_are_those_of_statsmodels(sd, difference, confidence, seeds):
    assert seeds_needed(sd, difference, confidence) == seeds
    assert t_power(seeds - 1, sd, difference, confidence) < 0.8 <= t_power(seeds, sd, difference, confidence)


@pytest.mark.parametrize("sd", [None, 0.0])
def test_seeds_needed_are_not_known_without_a_spread(sd):
    assert seeds_needed(sd, 1.0, 0.95) is None


def test_so_many_seeds_find_the_difference_so_often():
    generator = np.random.default_rng(0)
    n = seeds_needed(1.2, 1.0, 0.95)
    found = [summarise(row, 0.95) for row in (1.0 + 1.2 * generator.standard_normal((1500, n))).tolist()]
    assert np.mean([one.low > 0 for one in found]) == pytest.approx(t_power(n, 1.2, 1.0, 0.95), abs=0.03)


def test_a_pooled_spread_weighs_by_degrees_of_freedom():
    assert pooled_sd([summarise([0.0, 2.0], 0.95), summarise([1.0, 1.0, 1.0], 0.95)]) == pytest.approx(math.sqrt(2 / 3))
    assert pooled_sd([summarise([1.0], 0.95)]) is None


@pytest.mark.parametrize(
    ("seeds", "tests", "confidence", "told"),
    [(5, 1, 0.95, False), (6, 1, 0.95, True), (6, 2, 0.95, False), (10, 25, 0.95, True), (3, 1, 0.6, True)],
)
def test_p_can_only_tell_where_its_least_value_is_small_enough(seeds, tests, confidence, told):
    assert can_tell(seeds, tests, confidence) is told
    least = sign_flip_p([1.0] * seeds)[0] * tests
    assert (least < 1 - confidence) is told
    assert not can_tell(1, tests, confidence)
    assert not can_tell(seeds, 0, confidence)


@pytest.mark.parametrize(("sd", "confidence"), [(0.35, 0.95), (0.5, 0.95), (0.1, 0.9999)])
def test_powers_that_scipys_noncentral_t_does_not_know_are_right(sd, confidence):
    """At a difference of 3 or 1 points; against a simulation of the test itself."""
    from scipy import stats

    difference = 1.0 if confidence > 0.99 else 3.0
    generator, n = np.random.default_rng(0), seeds_needed(sd, difference, confidence)
    for seeds, enough in ((n, True), (n - 1, False)):
        if seeds < 2:
            continue
        drawn = difference + sd * generator.standard_normal((20_000, seeds))
        half = stats.t.ppf(0.5 + confidence / 2, seeds - 1) * stats.sem(drawn, axis=1)
        power = float((np.abs(drawn.mean(axis=1)) > half).mean())
        assert (power > 0.79) == enough, (seeds, power)

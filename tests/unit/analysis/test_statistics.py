import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.analysis.statistics import Summary, holm, holm_by, paired_difference, sign_flip_p, summarise, t_quantile

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

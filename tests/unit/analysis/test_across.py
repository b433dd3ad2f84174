"""What several pairs and data sets say together."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kd.analysis import measures
from kd.analysis.across import compare_across
from kd.analysis.placed import MethodRecord
from kd.schema.config import Reporting

OUTSIDE = json.loads((Path(__file__).parents[2] / "data" / "outside" / "across.json").read_text(encoding="utf-8"))
TOP1 = measures.compared_by("best")


def record(method, place, values, role="student"):
    """`values` by seed; None for one that failed. A place is a pair, of data set d or, as 'other/pair', of another."""
    dataset, _, pair = place.rpartition("/")
    known = {seed: value for seed, value in enumerate(values) if value is not None}
    numbers = dict.fromkeys(("sd", "half_width", "low", "high"))
    return MethodRecord(
        **{
            "dataset": dataset or "d",
            "pair": pair,
            "role": role,
            "method": method,
            "base_method": method,
            "teachers": "t",
        },
        **{"student": "s", "n_planned": len(values), "n_used": len(known), "complete": True, "unused": []},
        **{"mean": float(np.mean(list(known.values()))) if known else None, **numbers},
        **{"seeds": list(known), "values": list(known.values()), "is_best": False, "tied_with_best": None},
    )


def compare(table, **report):
    """Compare methods; `table` holds the values of each place by method and place."""
    records = [record(method, place, values) for method, places in table.items() for place, values in places.items()]
    return compare_across(records, TOP1, Reporting(**report))


def test_published_accuracies_have_rliables_probability_of_improvement():
    methods, places = OUTSIDE["methods"], OUTSIDE["places"]
    scores = np.array(OUTSIDE["scores"])
    table = {
        name: {place: [scores[row, column]] for row, place in enumerate(places)} for column, name in enumerate(methods)
    }
    found = compare(table, references=["KD"])
    won = {one.method: one.won for one in found.gains}
    expected = dict(zip(methods, OUTSIDE["improvement_over_kd"], strict=True))
    assert won == {name: pytest.approx(value) for name, value in expected.items() if name != "KD"}
    assert {one.spread_over for one in found.gains} == {"places"}, "one number a place tells nothing of seeds"
    assert [one.method for one in found.methods][:3] == ["MLKD+LS", "SSKD", "WTTM+ITRD"]
    assert [one.mean for one in found.methods] == sorted(scores.mean(axis=0).round(10), reverse=True)
    assert all(one.tied_with_best is None and one.iqm_low is None for one in found.methods)


def test_gains_are_means_over_places_with_the_interval_of_welch():
    """Two data sets: the interval of half the sum of two means of unequal spread."""
    first, second = [1.0, 2.0, 2.4], [0.5, 4.0, 3.0, 1.0]
    table = {
        "kd": {"a": [70.0] * 3, "e/b": [60.0] * 4},
        "x": {"a": [70 + value for value in first], "e/b": [60 + value for value in second]},
    }
    (gain,) = compare(table, references=["kd"]).gains
    welch = stats.ttest_ind(first, [-value for value in second], equal_var=False).confidence_interval(0.95)
    assert gain.mean == pytest.approx((np.mean(first) + np.mean(second)) / 2)
    assert (gain.low, gain.high) == (pytest.approx(welch.low / 2), pytest.approx(welch.high / 2))
    assert (gain.won, gain.spread_over, gain.p) == (1.0, "seeds", 0.5)


def test_places_of_a_data_set_share_what_a_seed_fixes_and_count_once():
    """The interval is that of the seeds' means over places: the second place tells of no further seed."""
    first, second = [1.0, 2.0, 2.4], [0.5, 4.0, 3.0]
    table = {
        "kd": {"a": [70.0] * 3, "b": [60.0] * 3},
        "x": {"a": [70 + value for value in first], "b": [60 + value for value in second]},
    }
    (gain,) = compare(table, references=["kd"]).gains
    alone = stats.ttest_1samp(np.mean([first, second], axis=0), 0).confidence_interval(0.95)
    assert gain.mean == pytest.approx((np.mean(first) + np.mean(second)) / 2)
    assert (gain.low, gain.high) == (pytest.approx(alone.low), pytest.approx(alone.high))


def test_intervals_cover_what_they_say_where_pairs_share_the_run_that_they_are_compared_with():
    generator, covered, rounds = np.random.default_rng(0), 0, 400
    for _ in range(rounds):
        shared, own = generator.standard_normal(3), generator.standard_normal((4, 3))
        table = {
            "ce": {place: (70 + shared).tolist() for place in "abcd"},
            "x": {place: (70 + values).tolist() for place, values in zip("abcd", own, strict=True)},
        }
        (gain,) = compare(table, references=["ce"]).gains
        covered += gain.low <= 0 <= gain.high
    # four standard errors around 95 %; strata that were taken for independent covered 82 %
    assert abs(covered / rounds - 0.95) < 4 * (0.95 * 0.05 / rounds) ** 0.5


def test_one_seed_a_place_speaks_of_other_places():
    table = {"kd": {"a": [70.0], "b": [60.0], "c": [50.0]}, "x": {"a": [71.0], "b": [63.0], "c": [52.0]}}
    found = compare(table, references=["kd"])
    half = stats.t.ppf(0.975, 2) * stats.sem([1.0, 3.0, 2.0])
    assert (found.gains[0].low, found.gains[0].high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert [one.tied_with_best for one in found.methods] == [None, None]


def test_what_lacks_results_somewhere_is_left_out_and_named():
    table = {
        "kd": {"a": [70.0, 71.0], "b": [60.0, 61.0], "c": [50.0, 51.5]},
        "x": {"a": [72.0, 73.0], "b": [62.0, None], "c": [52.0, 53.0]},
        "many": {"a": [75.0, 75.0]},
        "none": {"a": [None, None], "b": [None, None]},
    }
    found = compare(table, references=["ce", "kd"])
    assert (found.left_out, found.left_out_places) == (["many"], [])
    assert [one.method for one in found.methods] == ["x", "kd"]
    assert [one.n_used for one in found.methods] == [5, 6]
    assert [one.reference for one in found.gains] == ["kd"]
    assert found.gains[0].spread_over == "places", "one place has a single pair of seeds"


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"kd": {"a": [70.0, 71.0]}, "x": {"a": [70.0, 71.0]}},
        {"kd": {"a": [70.0], "b": [60.0]}},
        {"kd": {"a": [70.0]}, "x": {"b": [60.0]}},
        {"kd": {"a": [None], "b": [None]}, "x": {"a": [None], "b": [None]}},
    ],
    ids=["nothing", "one place", "one method", "nothing in common", "all failed"],
)
def test_too_little_in_common_says_nothing_together(table):
    assert compare(table) is None


def test_teachers_and_links_are_no_methods():
    records = [
        record(name, place, [70.0, 71.0], role)
        for name, role in (("kd", "student"), ("t", "teacher"))
        for place in "ab"
    ]
    assert compare_across(records, TOP1, Reporting()) is None


def test_equal_methods_tie_in_rank_and_are_not_told_apart():
    values = {"a": [70.0, 71.0], "b": [60.0, 61.3]}
    found = compare({"kd": values, "ce": values, "x": values})
    assert [one.rank for one in found.methods] == [2.0, 2.0, 2.0]
    assert all(one.tied_with_best and one.ranks_with_best for one in found.methods)
    assert {(one.mean, one.won, one.p) for one in found.gains} == {(0.0, 0.5, None)}
    assert found.ranks.p is None

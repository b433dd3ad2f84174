"""Ranks over places, against what other libraries made of published accuracies, and against counts by hand."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from kd.analysis.ranks import complete, critical_difference, ranking, signed_rank_p

OUTSIDE = json.loads((Path(__file__).parents[2] / "data" / "outside" / "across.json").read_text(encoding="utf-8"))
SCORES = np.array(OUTSIDE["scores"])


def test_ranks_and_friedman_are_those_of_autorank():
    found = ranking(SCORES, 0.95)
    assert found.ranks == pytest.approx(OUTSIDE["mean_ranks"])
    assert found.p == pytest.approx(OUTSIDE["friedman_p"], rel=1e-6)
    assert found.critical_difference == pytest.approx(OUTSIDE["critical_difference"], abs=5e-3)  # it reads a table


def test_the_critical_difference_parts_what_nemenyis_test_parts():
    """By scikit-posthocs, whose p of each method's ranks beside those of kd is 0.05 where they lie so far apart."""
    found = ranking(SCORES, 0.95)
    kd = found.ranks[OUTSIDE["methods"].index("KD")]
    apart = [abs(rank - kd) >= found.critical_difference for rank in found.ranks]
    assert apart == [p < 0.05 for p in OUTSIDE["nemenyi_p_to_kd"]]
    assert 0 < sum(apart) < len(apart)


@pytest.mark.parametrize(
    ("methods", "places", "value"), [(2, 10, 0.6198), (4, 14, 1.2536), (10, 20, 3.0292)], ids=["two", "four", "ten"]
)
def test_critical_differences_by_the_printed_quantiles(methods, places, value):
    """Demsar (2006), table 5: 1.960, 2.569, 3.164, times the root of k(k + 1) / 6N."""
    assert critical_difference(methods, places, 0.95) == pytest.approx(value, abs=2e-3)


def test_the_published_accuracies_hold_a_whole_table(shared):
    with (shared / "reference" / "cifar100_reference.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 846
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        if "UNVERIFIED" not in row["source"]:
            place = f"{row['teacher']}/{row['student']}"
            table.setdefault(row["method"], {}).setdefault(place, float(row["top1_mean"]))
    places = list(dict.fromkeys(place for found in table.values() for place in found))
    whole = np.array([[table[name].get(place, np.nan) for name in table] for place in places])
    kept, methods = complete(whole, [list(table).index("KD")])
    assert [places[row] for row in kept] == OUTSIDE["places"]
    assert [list(table)[column] for column in methods] == OUTSIDE["methods"]
    np.testing.assert_array_equal(whole[np.ix_(kept, methods)], SCORES)


N = np.nan


@pytest.mark.parametrize(
    ("table", "last", "rows", "columns"),
    [
        ([[1, 2, 3], [1, 2, 3]], [], [0, 1], [0, 1, 2]),
        ([[1, 2, N], [1, 2, 3], [1, 2, 3]], [], [0, 1, 2], [0, 1]),  # a method that failed on one place
        ([[1, N, N, N], [1, 2, 3, 4], [1, 2, 3, 4]], [], [1, 2], [0, 1, 2, 3]),  # a place with one method
        ([[1, N], [N, 2], [1, 2]], [0], [2], [0, 1]),
        ([[N, 2, 3], [1, N, 3], [1, 2, 3], [1, 2, 3]], [0], [0, 2, 3], [1, 2]),
        ([[N, N]], [], [], []),
        (np.zeros((0, 0)), [], [], []),
    ],
    ids=["whole", "method", "place", "diagonal", "reference", "nothing", "empty"],
)
def test_what_is_left_out_leaves_a_table_without_gaps(table, last, rows, columns):
    found = np.array(table, dtype=np.float64)
    kept = complete(found, last)
    assert not np.isnan(found[np.ix_(*kept)]).any() if kept[0] else True
    if last != [0]:
        assert kept == (rows, columns)
    assert len(kept[0]) * len(kept[1]) >= len(rows) * len(columns)


def test_a_reference_stays_as_long_as_another_method_can_go():
    table = np.array([[N, 2, 3.0], [1, N, 3.0], [1, 2, 3.0]])
    table = np.vstack([table, np.ones((5, 3))])
    assert 0 in complete(table, last=[0])[1]
    assert 1 in complete(table, last=[1])[1]


def test_neighbours_that_are_not_told_apart_stand_together():
    scores = np.array([[4.0, 3.0, 2.0, 1.0]] * 9 + [[3.0, 4.0, 1.0, 2.0]])
    found = ranking(scores, 0.95)
    assert found.ranks == pytest.approx([1.1, 1.9, 3.1, 3.9])
    assert found.critical_difference == pytest.approx(1.483, abs=2e-3)
    assert found.alike == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("scores", [np.ones((5, 4)), np.array([[1.0, 2.0]] * 6)], ids=["ties", "two methods"])
def test_ranks_without_friedmans_test(scores):
    found = ranking(scores, 0.95)
    assert (found.chi_square, found.p) == (None, None)
    assert found.ranks == [2.5] * 4 if len(scores[0]) == 4 else [2.0, 1.0]


def test_false_alarms_are_as_rare_as_they_should_be():
    """Of rankings by chance Friedman's test parts at most 5 %, and Nemenyi's any two at most 5 %."""
    generator = np.random.default_rng(0)
    found = [ranking(generator.standard_normal((8, 6)), 0.95) for _ in range(250)]
    assert np.mean([one.p < 0.05 for one in found]) < 0.07
    assert np.mean([np.ptp(one.ranks) >= one.critical_difference for one in found]) < 0.07


def by_hand(differences):
    order = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = abs(np.sum(np.sign(differences) * order))
    signs = itertools.product([1, -1], repeat=len(differences))
    return np.mean([abs(np.dot(one, order)) >= observed for one in signs])


@pytest.mark.parametrize(
    "differences", [[1.0, 2.0, 3.5], [-0.5, 1.0, 2.0, 3.0, 4.5, 0.7], [1.0, -2.0, 0.25, -4.0, 8.0]]
)
def test_signed_ranks_are_the_count_over_all_signs(differences):
    assert signed_rank_p(differences) == pytest.approx(by_hand(np.array(differences)))


@pytest.mark.parametrize("differences", [[], [1.0], [0.0, 0.0, 0.0]], ids=["none", "one", "ties"])
def test_nothing_to_rank_has_no_p(differences):
    assert signed_rank_p(differences) is None

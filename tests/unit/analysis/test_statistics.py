import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.analysis.collect import COLUMNS
from kd.analysis.statistics import compute_statistics, holm, paired_difference, sign_flip_p, summarise, t_quantile
from kd.schema.config import Reporting

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
    assert found["mean"] == pytest.approx(214 / 3)
    assert found["sd"] == pytest.approx(math.sqrt(7 / 3))
    assert found["half_width"] == pytest.approx(4.302653 * math.sqrt(7) / 3, rel=1e-6)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert summarise([70.0], 0.95) == {
        **{"n": 1, "mean": 70.0},
        **dict.fromkeys(["sd", "half_width", "low", "high"]),
    }
    assert summarise([], 0.95)["mean"] is None
    alone = paired_difference({0: 71.0}, {0: 70.0, 1: 60.0}, 0.95)
    assert (alone["n"], alone["mean"], alone["low"], alone["p"]) == (1, 1.0, None, None)


def test_coverage_is_nominal():
    generator = np.random.default_rng(0)
    samples = generator.standard_normal((1500, 3))
    covered = [abs(one["mean"]) <= one["half_width"] for one in (summarise(row, 0.95) for row in samples.tolist())]
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
    assert (found["p_exact"], found["flips"]) == (False, 10_000)
    from scipy import stats

    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.05)


def test_holm_by_hand():
    # 0.01*4, 0.02*3 = 0.06, 0.03*2 = 0.06, 0.5*1
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


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


def write_runs(path, rows):
    """rows: (method, seed, accuracy or None, status)."""
    lines = [",".join(COLUMNS)]
    for method, seed, accuracy, status in rows:
        cells = dict.fromkeys(COLUMNS, "")
        teacher = method == "teacher"
        cells |= {"experiment": "e", "dataset": "d", "pair": "t--s", "teachers": "none" if teacher else "t"}
        cells |= {"student": "t" if teacher else "s", "method": method, "base_method": method, "seed": str(seed)}
        cells |= {"status": status, "reason": "" if status == "ok" else "why", "path": f"{method}/{seed}"}
        if accuracy is not None:
            cells |= {"test_top1_best": str(accuracy), "test_top1_last": str(accuracy - 1)}
        lines.append(",".join(cells.values()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def analyse(tmp_path, rows, **report):
    write_runs(tmp_path / "runs.csv", rows)
    compute_statistics(tmp_path / "runs.csv", tmp_path / "statistics.json", Reporting(**report))
    found = json.loads((tmp_path / "statistics.json").read_text(encoding="utf-8"))
    return found, {one["method"]: one for one in found["methods"]}


def ok(method, *accuracies):
    return [(method, seed, accuracy, "ok") for seed, accuracy in enumerate(accuracies)]


def test_a_lost_seed_is_marked_and_pairs_shrink_with_it(tmp_path):
    rows = [*ok("kd", 70.0, 71.0, 72.0), ("crd", 0, 71.0, "ok"), ("crd", 1, None, "failed"), ("crd", 2, 74.0, "ok")]
    found, methods = analyse(tmp_path, rows)
    crd = methods["crd"]
    assert (crd["n_planned"], crd["n_used"], crd["complete"], crd["mean"]) == (3, 2, False, 72.5)
    assert crd["unused"] == [{"seed": 1, "status": "failed", "reason": "why"}]
    (difference,) = found["differences"]
    assert (difference["seeds"], difference["values"], difference["mean"]) == ([0, 2], [1.0, 2.0], 1.5)
    assert (difference["n"], difference["n_planned"], difference["p"]) == (2, 3, 0.5)


def test_the_best_and_those_not_told_apart_from_it(tmp_path):
    rows = [*ok("kd", 70.0, 71.0, 72.0), *ok("good", 75.0, 76.0, 77.1), *ok("even", 74.0, 77.0, 76.0)]
    rows += [("lucky", 0, 99.0, "ok"), ("lucky", 1, None, "missing"), ("lucky", 2, None, "missing")]
    _, methods = analyse(tmp_path, rows)
    assert {name: one["is_best"] for name, one in methods.items() if one["is_best"]} == {"good": True}
    tied = {name: one["tied_with_best"] for name, one in methods.items()}
    assert tied == {"good": True, "even": True, "kd": False, "lucky": None}


def test_holm_runs_over_the_methods_of_one_reference(tmp_path):
    rows = [*ok("ce", 60, 61, 62, 63), *ok("kd", 70, 71, 72, 73), *ok("x", 71, 72, 74, 73), *ok("teacher", 80, 81)]
    found, methods = analyse(tmp_path, rows)
    assert {(one["reference"], one["method"]) for one in found["differences"]} == {
        *[("kd", "ce"), ("kd", "x")],
        *[("ce", "kd"), ("ce", "x")],
    }
    assert all(one["holm_over"] == 2 for one in found["differences"])
    to_ce = {one["method"]: one["p_holm"] for one in found["differences"] if one["reference"] == "ce"}
    assert to_ce == {"kd": 0.25, "x": 0.25}  # 2/16 each, doubled
    assert methods["teacher"]["role"] == "teacher"
    assert methods["teacher"]["tied_with_best"] is None


def test_a_teacher_that_serves_every_seed_counts_once(tmp_path):
    write_runs(tmp_path / "runs.csv", [("teacher", 0, 80.0, "ok"), ("teacher", 0, 80.0, "ok"), *ok("kd", 70.0, 71.0)])
    compute_statistics(tmp_path / "runs.csv", tmp_path / "s.json", Reporting())
    teacher = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["methods"][0]
    assert (teacher["n_planned"], teacher["n_used"], teacher["mean"]) == (1, 1, 80.0)


def test_last_weights_use_the_last_epoch(tmp_path):
    _, methods = analyse(tmp_path, ok("kd", 70.0, 71.0), weights="last")
    assert methods["kd"]["mean"] == 69.5


@pytest.mark.parametrize(
    "rows",
    [ok("kd", 70.0), [("kd", 0, None, "failed"), ("ce", 0, None, "missing")], [*ok("kd", 70.0), *ok("x", 71.0)]],
)
def test_too_little_gives_no_interval_no_p_and_no_tie(tmp_path, rows):
    found, methods = analyse(tmp_path, rows)
    assert all(one["low"] is None and one["tied_with_best"] is None for one in methods.values())
    assert all(one["p"] is None and one["p_holm"] is None for one in found["differences"])
    assert "NaN" not in (tmp_path / "statistics.json").read_text(encoding="utf-8")


def test_the_same_runs_give_the_same_bytes(tmp_path):
    rows = [*ok("kd", 70.1, 71.3, 72.7), *ok("x", 71.2, 70.9, 73.3)]
    analyse(tmp_path, rows)
    first = (tmp_path / "statistics.json").read_bytes()
    analyse(tmp_path, rows)
    assert (tmp_path / "statistics.json").read_bytes() == first

"""What statistics.json says of rows of runs.csv."""

import json
from dataclasses import replace

import pytest

from kd.analysis import measures
from kd.analysis.compared import compute_statistics, read_statistics
from kd.analysis.rows import columns
from kd.schema.config import Reporting
from kd.tools.errors import UserError
from kd.tools.files import read_json, write_json


def write_runs(path, rows):
    """rows: (method, seed, accuracy or None, status)."""
    lines = [",".join(columns())]
    for method, seed, accuracy, status in rows:
        cells = dict.fromkeys(columns(), "")
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


def test_what_is_told_apart_is_corrected_for_how_many_there_are(tmp_path):
    """Behind by 1.2, 1 and 1.4 points of three seeds: t is 10.4, beyond 2.92 for one method, below 14.1 for twenty."""
    good, behind = ok("good", 75.0, 76.0, 77.0), ok("behind", 73.8, 75.0, 75.6)
    _, methods = analyse(tmp_path, [*good, *behind])
    assert methods["behind"]["tied_with_best"] is False
    others = [row for number in range(19) for row in ok(f"x{number}", 74.0, 76.0, 76.5)]
    _, methods = analyse(tmp_path, [*good, *behind, *others])
    assert methods["behind"]["tied_with_best"] is True


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


def test_reading_gives_back_what_was_written(tmp_path):
    found, _ = analyse(tmp_path, [*ok("kd", 70.1, 71.3), ("x", 0, 71.2, "ok"), ("x", 1, None, "failed")])
    statistics = read_statistics(tmp_path / "statistics.json")
    assert statistics.settings.metric == "test_top1_best"
    assert [one.method for one in statistics.methods] == ["kd", "x"]
    assert statistics.methods[1].unused[0].reason == "why"
    assert statistics.differences[0].mean == found["differences"][0]["mean"]


@pytest.mark.parametrize("change", [{"methods": [{"groups": 3}]}, {"settings": {}}, {"differences": 3}])
def test_statistics_of_another_version_are_refused_in_a_sentence(tmp_path, change):
    analyse(tmp_path, ok("kd", 70.1, 71.3))
    path = tmp_path / "statistics.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(UserError, match=r"statistics\.json is not of this version"):
        read_statistics(path)


def test_where_less_is_better_the_lowest_is_the_best(tmp_path, monkeypatch):
    """No measure that methods are compared by is such today."""
    turned = [replace(one, better="down") if getattr(one, "title", "") else one for one in measures.CATALOGUE]
    monkeypatch.setattr(measures, "CATALOGUE", turned)
    rows = [*ok("kd", 70.0, 71.0, 72.0), *ok("good", 65.0, 66.0, 67.1), *ok("even", 64.0, 67.0, 66.0)]
    _, methods = analyse(tmp_path, rows)
    assert [name for name, one in methods.items() if one["is_best"]] == ["even"]
    assert {name: one["tied_with_best"] for name, one in methods.items()} == {"kd": False, "good": True, "even": True}


def test_differences_tell_shares_verdicts_and_the_seeds_for_more(tmp_path):
    rows = [*ok("kd", 70.0, 71.0, 72.0), *ok("x", 71.0, 72.3, 72.8), *ok("y", 70.0, 70.0, 72.4)]
    found, _ = analyse(tmp_path, rows, rope=0.1, detect=0.5)
    x, y = found["differences"]
    assert (x["won"], x["verdict"], y["won"], y["verdict"]) == (1.0, "better", 0.5, "open")
    assert x["won_low"] == pytest.approx(0.4385, abs=1e-4)
    assert x["sd"] == pytest.approx(0.2516611)
    assert (x["seeds_needed"], found["settings"]["detect"]) == (5, 0.5)  # Cohen's d = 1.987
    assert found["across"] is None


def test_several_pairs_are_put_together(tmp_path):
    rows = [*ok("kd", 70.0, 71.0, 72.0), *ok("x", 71.0, 72.3, 72.8)]
    write_runs(tmp_path / "runs.csv", rows)
    text = (tmp_path / "runs.csv").read_text(encoding="utf-8")
    again = [line.replace("t--s", "u--s") for line in text.splitlines()[1:]]
    (tmp_path / "runs.csv").write_text("\n".join([text.rstrip(), *again, ""]), encoding="utf-8")
    compute_statistics(tmp_path / "runs.csv", tmp_path / "statistics.json", Reporting())
    across = read_statistics(tmp_path / "statistics.json").across
    assert across.places == [["d", "t--s"], ["d", "u--s"]]
    assert [one.method for one in across.methods] == ["x", "kd"]
    assert across.gains[0].mean == pytest.approx(3.1 / 3)
    assert across.ranks.ranks == [1.0, 2.0]

"""One plain row per method: sorted, with its lead over the teacher; a failed one has a reason and no number."""

import csv
import json
from datetime import UTC, datetime

import pytest

from kd.analysis.compared import read_statistics
from kd.analysis.runs import read_runs
from kd.reporting.results_list import listed, printed, summary, write_results_list


def lines_of(world):
    return listed(read_runs(world.runs_csv), read_statistics(world.statistics))


@pytest.fixture
def lines(small):
    return lines_of(small)


def test_best_first_and_what_has_no_result_last(lines):
    # means of the fixture's accuracies: the teacher's 80.0, 80.1, 80.2; crd's two seeds that ended well
    found = {line.method: line.best_accuracy for line in lines}
    assert list(found) == ["teacher", "crd", "kd_t8", "kd", "ce", "ft"]
    assert found["teacher"] == pytest.approx(80.1)
    assert found["crd"] == pytest.approx(74.5)
    assert found["ft"] is None


def test_the_lead_over_the_teacher_in_points_and_percent(lines):
    kd = next(line for line in lines if line.method == "kd")
    assert kd.improvement == pytest.approx((73.0 + 74.5 + 74.0) / 3 - 80.1)
    assert kd.improvement_percent == pytest.approx(100 * ((73.0 + 74.5 + 74.0) / 3 - 80.1) / 80.1)
    assert (kd.training_time, kd.epochs, kd.seeds, kd.error) == (60.0, 4.0, 3, "")
    teacher = next(line for line in lines if line.method == "teacher")
    assert (teacher.improvement, teacher.model) == (None, "big")


def test_what_stands_after_the_mean_is_the_deviation_over_seeds(lines):
    teacher = next(line for line in lines if line.method == "teacher")
    assert teacher.sd == pytest.approx(0.1)  # of 80.0, 80.1 and 80.2; their t interval would be 0.25 to either side
    assert any("80.10 ± 0.10 %" in line for line in printed(lines))


def test_epochs_are_whole_in_the_file_too(lines, tmp_path):
    write_results_list(lines, tmp_path)
    rows = csv.DictReader((tmp_path / "comparison_results.csv").read_text(encoding="utf-8").splitlines())
    assert {row["method"]: row["epochs"] for row in rows if row["method"] != "ft"} == dict.fromkeys(
        ["teacher", "crd", "kd_t8", "kd", "ce"], "4"
    )


def test_a_failed_run_is_a_reason_and_no_accuracy_of_zero(lines):
    crd, ft = (next(line for line in lines if line.method == name) for name in ("crd", "ft"))
    assert crd.seeds == 2
    assert crd.error == "seed 1 failed: loss became NaN in epoch 3, step 17 <&_%>"
    assert (ft.best_accuracy, ft.improvement, ft.training_time, ft.seeds) == (None, None, None, 0)
    assert "missing" in ft.error


def test_who_teaches(world):
    world.teachers(range(2)).method("ce", [70.0, 71.0]).method("kd", [73.0, 74.5])
    found = {line.method: line.teacher for line in lines_of(world.analyse())}
    assert found == {"teacher": "None", "ce": "None", "kd": "big"}


def test_methods_whose_students_teach_each_other(world):
    world.teachers(range(2)).method("kd", [73.0, 74.5]).method("dml", [75.0, 76.0])
    for run in world.runs:
        run["teachers"] = "none" if run["method"] == "dml" else run["teachers"]
    found = {line.method: line.teacher for line in lines_of(world.analyse())}
    assert found["dml"] == "None (Mutual)"


def test_the_summary_of_one_pair_is_plain(lines):
    found = summary(lines, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert found == {
        "experiment_timestamp": "2026-01-02T03:04:05+00:00",
        "teacher_accuracy": {"big": 80.1},
        "best_student_method": "crd",
        "best_student_accuracy": 74.5,
        "total_methods_tested": 5,
        "successful_methods": 4,
        "failed_methods": ["ft"],
    }


def test_the_files(lines, tmp_path):
    write_results_list(lines, tmp_path)
    with (tmp_path / "comparison_results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    content = json.loads((tmp_path / "comparison_results.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in rows] == [row["method"] for row in content] == [line.method for line in lines]
    assert rows[-1]["best_accuracy"] == ""
    assert content[-1]["best_accuracy"] is None
    assert json.loads((tmp_path / "experiment_summary.json").read_text(encoding="utf-8"))["failed_methods"] == ["ft"]


def test_what_is_printed_is_as_wide_in_every_line(lines):
    shown = list(printed(lines))
    assert shown[0].split("  ")[0] == "method"
    column = shown[0].index("best accuracy")
    assert all(line[column - 2 : column].isspace() for line in shown)
    assert "no result" in shown[-1]

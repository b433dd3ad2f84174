"""Measures of continual learning against matrices worked out by hand."""

import json

import numpy as np
import pytest
from recorded import failed, finished, step

from kd.analysis.continual import (
    average_incremental_accuracy,
    forgetting,
    mean_matrix,
    measures,
    read_record,
    read_runs,
    seen_accuracies,
    summaries,
)

MATRIX = [[90.0, None, None], [60.0, 80.0, None], [30.0, 50.0, 70.0]]
EQUAL = [10, 10, 10]


def test_accuracy_over_seen_classes_is_that_over_all_their_images():
    assert seen_accuracies(MATRIX, EQUAL) == pytest.approx([90, 70, 50])
    assert seen_accuracies(MATRIX, [30, 10, 10]) == pytest.approx(
        [90, (60 * 30 + 80 * 10) / 40, (900 + 500 + 700) / 50]
    )


def test_average_incremental_accuracy_is_the_mean_over_tasks():
    assert average_incremental_accuracy(MATRIX, EQUAL) == pytest.approx((90 + 70 + 50) / 3)


def test_forgetting_is_the_fall_from_the_best_before_the_last_task():
    assert forgetting(MATRIX) == pytest.approx(((90 - 30) + (80 - 50)) / 2)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[50.0, None, None], [80.0, 40.0, None], [60.0, 45.0, 90.0]], ((80 - 60) + (40 - 45)) / 2),
        ([[50.0, None], [50.0, 10.0]], 0.0),
        ([[0.0, None], [100.0, 0.0]], -100.0),
    ],
    ids=["best in between, and a gain", "nothing", "gain"],
)
def test_forgetting_of_other_courses(matrix, expected):
    assert forgetting(matrix) == pytest.approx(expected)


def evaluated(matrix, images=EQUAL):
    known = [[value if value is None else value + 5 for value in row] for row in matrix]
    split = {"class": matrix, "task": known}
    return {
        "class_order": [0],
        "sizes": [1, 1, 1],
        "images": {"test": images, "val": images},
        "test": split,
        "val": split,
    }


def test_measures_of_a_run():
    found = measures(evaluated(MATRIX))
    assert found == pytest.approx({"average": 70, "final": 50, "forgetting": 45, "task_final": 55})


def run(folder, strategy, seed, matrix=None, reason=None):
    path = folder / strategy / f"seed{seed}"
    path.mkdir(parents=True)
    if matrix is not None:
        finished(path, "continual_run", "continual_matrix")
        (path / "matrix.json").write_text(json.dumps(evaluated(matrix)), encoding="utf-8")
    if reason is not None:
        failed(path, "continual_run", reason)
    made = {"steps": [step(path, "continual_run"), step(path, "continual_matrix")], "before": []}
    return {"dataset": "toy", "student": "net", "strategy": strategy, "seed": seed, "path": str(path), "made": made}


def raised(by):
    return [[value if value is None else value + by for value in row] for row in MATRIX]


def test_summaries_have_mean_spread_and_paired_difference(tmp_path):
    runs = [run(tmp_path, "finetune", k, raised(k)) for k in (0, 2)]
    runs += [run(tmp_path, "replay", k, raised(1 + 1.5 * k)) for k in (0, 2)]
    first, second = summaries(read_runs(runs), 0.95)
    final = first.measures["final"]
    assert (final.mean, final.n) == (51, 2)
    assert final.sd == pytest.approx(2**0.5)
    assert first.difference is None
    assert second.difference.values == pytest.approx([1, 2])
    assert second.difference.mean == pytest.approx(1.5)
    assert second.reference == "finetune"


def test_a_record_comes_back_from_its_file_as_it_was(tmp_path):
    runs = [run(tmp_path, name, k, raised(k)) for name in ("finetune", "replay") for k in (0, 2)]
    for record in summaries(read_runs(runs), 0.95):
        assert read_record(json.loads(json.dumps(record.content()))) == record


def test_a_failed_run_is_told_and_never_averaged(tmp_path):
    runs = [run(tmp_path, "ewc", 0, MATRIX), run(tmp_path, "ewc", 1, reason="diverged"), run(tmp_path, "ewc", 2)]
    (record,) = summaries(read_runs(runs), 0.95)
    assert (record.planned, record.used) == (3, 1)
    assert record.measures["final"].mean == 50.0
    assert record.problems == ["seed 1: diverged", "seed 2: not finished"]


def test_the_mean_matrix_keeps_what_is_not_learnt_yet(tmp_path):
    found = mean_matrix(read_runs([run(tmp_path, "x", k, raised(2 * k)) for k in (0, 1)]))
    np.testing.assert_allclose(found, [[91, np.nan, np.nan], [61, 81, np.nan], [31, 51, 71]])

import csv
import json

import pytest
from recorded import failed, finished, step

from kd.analysis.collect import collect
from kd.analysis.rows import columns

SCORES = {"val_top1": 70.0, "test_top1": 69.5, "test_top5": 90.0, "test_nll": 1.2, "test_ece": 0.04, "agreement": None}
RUN = {
    "status": "ok",
    "settings": {},
    "hardware": {"device": "cuda", "cpu": "a CPU", "gpu": "a GPU"},
    "seconds": {"train": 12.5, "evaluate": 1.0},
    "peak_memory_mb": 100.0,
    "flops": {"train": 1e12},
    "params": {"student": 1000, "extra_train": 50, "extra_inference": 0},
    "epochs": 4,
    "best_epoch": 2,
}
EVALUATION = {"last": SCORES | {"test_top1": 69.0}, "best": SCORES, "test_top1_tracked_max": None}


def folder(root, name, **files):
    path = root / name
    path.mkdir(parents=True, exist_ok=True)
    if "evaluation" in files:
        finished(path, "train_student", "evaluate")
    for stem, content in files.items():
        (path / f"{stem}.json").write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
    return str(path)


def planned(path, **more):
    run = {"experiment": "e", "dataset": "d", "pair": "a+b--s", "teachers": "a", "student": "s", "method": "kd"}
    rest = {"base_method": "kd", "seed": 0, "path": path, "teacher_paths": [], "prestage_paths": [], "kind": "student"}
    folders = {"taught_by": more.get("teacher_paths", [])}
    before = [step(folder, "train_teacher") for folder in more.get("teacher_paths", [])]
    halves = [step(f"{path}/stage2/teacher_update", "asib_teacher_update")] if more.get("base_method") == "asib" else []
    steps = [*halves, step(path, "train_student"), step(path, "evaluate")]
    return run | rest | folders | {"made": {"steps": steps, "before": before}} | more


def rows_of(tmp_path, *runs):
    out = tmp_path / "runs.csv"
    collect(runs, out)
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_finished_run(tmp_path):
    teachers = [
        folder(tmp_path, f"t{index}", run=RUN | {"seconds": {"train": seconds}}, evaluation=EVALUATION)
        for index, seconds in enumerate((100.0, 20.0))
    ]
    prestage = folder(tmp_path, "pre", run=RUN | {"seconds": {"train": 3.0}, "flops": {"train": 5.0}})
    path = folder(tmp_path, "s", run=RUN, evaluation=EVALUATION)
    (row,) = rows_of(tmp_path, planned(path, teacher_paths=teachers, prestage_paths=[prestage]))
    assert list(row) == columns()
    expected = {
        **{"status": "ok", "reason": "", "test_top1_last": "69.0", "test_top1_best": "69.5", "val_top1_best": "70.0"},
        **{"train_seconds": "12.5", "teacher_seconds": "120.0", "pretrain_seconds": "3.0", "pretrain_flops": "5.0"},
        **{"teacher_flops": "2000000000000.0", "teacher_test_top1": "69.5000;69.5000", "device": "cuda (a GPU)"},
        **{"epochs": "4", "best_epoch": "2", "student_params": "1000", "extra_params_inference": "0"},
        **{"agreement_best": "", "test_top1_tracked_max": ""},
    }
    assert {key: row[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("files", "status", "reason"),
    [
        ({}, "missing", "run.json and evaluation.json not found"),
        ({"run": RUN}, "missing", "evaluation.json not found"),
        ({"run": RUN | {"status": "failed", "reason": "why"}, "evaluation": EVALUATION}, "failed", "why"),
        ({"run": RUN, "evaluation": '{"last":'}, "failed", "is not valid JSON"),
        ({"run": RUN, "evaluation": {"last": SCORES}}, "failed", "incomplete record: 'best'"),
        (
            {"run": RUN, "evaluation": EVALUATION | {"last": SCORES | {"test_top1": float("nan")}}},
            "failed",
            "no finite test accuracy for last weights",
        ),
    ],
)
def test_a_run_without_result_has_a_reason_and_no_numbers(tmp_path, files, status, reason):
    (row,) = rows_of(tmp_path, planned(folder(tmp_path, "s", **files)))
    assert row["status"] == status
    assert reason in row["reason"]
    assert all(row[key] == "" for key in columns() if "top1" in key or "seconds" in key)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "loss became NaN\nin epoch 2"),
        ({"run": RUN}, "disk full"),
        ({"run": RUN, "evaluation": EVALUATION}, "again"),
    ],
    ids=["training", "evaluation", "old results"],
)
def test_a_failed_run_tells_the_reason_that_its_job_left(tmp_path, files, reason):
    path = folder(tmp_path, "s", **files)
    (tmp_path / "s" / "made" / "evaluate.json").unlink(missing_ok=True)
    failed(path, "evaluate" if files else "train_student", reason)
    (row,) = rows_of(tmp_path, planned(path))
    assert (row["status"], row["reason"]) == ("failed", " ".join(reason.split()))
    assert row["test_top1_best"] == ""


def test_numbers_of_other_settings_are_not_shown(tmp_path):
    path = folder(tmp_path, "s", run=RUN, evaluation=EVALUATION)
    finished(path, "evaluate", identity="of a lower temperature")
    failed(path, "train_student", "diverged at another learning rate", identity="of another learning rate")
    (row,) = rows_of(tmp_path, planned(path))
    assert (row["status"], row["test_top1_best"]) == ("missing", "")
    assert row["reason"] == "made with other settings, code or data than are asked"


def test_a_failed_half_stage_is_named(tmp_path):
    path = folder(tmp_path, "s")
    failed(tmp_path / "s/stage2/teacher_update", "asib_teacher_update", "loss became NaN")
    (row,) = rows_of(tmp_path, planned(path, base_method="asib"))
    assert (row["status"], row["reason"]) == ("failed", "stage2/teacher_update: loss became NaN")


def test_a_run_that_waits_for_a_failed_teacher_says_so(tmp_path):
    teacher = folder(tmp_path, "t")
    failed(teacher, "train_teacher", "disk full")
    (row,) = rows_of(tmp_path, planned(str(tmp_path / "s"), teacher_paths=[teacher]))
    assert (row["status"], row["reason"]) == ("missing", f"{teacher} failed before it: disk full")


def test_a_finished_run_outlives_an_old_failure(tmp_path):
    path = folder(tmp_path, "s", run=RUN, evaluation=EVALUATION)
    failed(path, "train_student", "an earlier attempt")
    assert rows_of(tmp_path, planned(path))[0]["status"] == "ok"


def test_costs_are_unknown_when_a_teacher_left_no_record(tmp_path):
    path = folder(tmp_path, "s", run=RUN, evaluation=EVALUATION)
    (row,) = rows_of(tmp_path, planned(path, teacher_paths=[str(tmp_path / "gone")]))
    assert (row["status"], row["teacher_seconds"], row["teacher_flops"]) == ("ok", "", "")
    assert row["pretrain_seconds"] == "0"


def test_teachers_are_read_once(tmp_path, monkeypatch):
    import kd.analysis.collect as module

    reads = []
    original = module.read_json
    monkeypatch.setattr(module, "read_json", lambda path: reads.append(path) or original(path))
    teacher = folder(tmp_path, "t", run=RUN, evaluation=EVALUATION)
    paths = [folder(tmp_path, f"s{index}", run=RUN, evaluation=EVALUATION) for index in range(5)]
    rows_of(tmp_path, *(planned(path, seed=seed, teacher_paths=[teacher]) for seed, path in enumerate(paths)))
    assert len(reads) == len(set(reads)) == 12

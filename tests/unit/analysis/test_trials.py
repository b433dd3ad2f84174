"""Which trial is chosen, and the table of all of them."""

import json

import pytest
from recorded import failed, finished, step

from kd.analysis.choice import choose
from kd.analysis.trials import collect_trials, read_trials
from kd.tools.errors import UserError
from kd.tools.files import read_json, write_json

TOLD = {
    "method": "kd",
    "trials": [
        {"trial": k, "method": [{"card": "kd", "settings": {"temperature": k}}], "recipe": {"lr": k / 10}, "drawn": {}}
        for k in (1, 2, 3, 4)
    ],
}


def record(best, last=None):
    """A run.json: of a trial that reached so much, or that failed for a reason."""
    if isinstance(best, str):
        return {"status": "failed", "reason": best, "selected": {}}
    return {"status": "ok", "selected": {"best": best, "last": best if last is None else last}}


def chosen(tmp_path, *records, weights="best"):
    paths = [tmp_path / f"{number}.json" for number in range(len(records))]
    for path, one in zip(paths, records, strict=True):
        write_json(path, one)
    choose({**TOLD, "weights": weights}, paths, tmp_path / "choice.json")
    return read_json(tmp_path / "choice.json", sealed=True)


def test_the_highest_validation_accuracy_is_chosen_with_its_settings(tmp_path):
    assert chosen(tmp_path, record(60.0), record(62.5), record(61.0), record(40.0)) == {
        **{"trial": 2, "method": [{"card": "kd", "settings": {"temperature": 2}}], "recipe": {"lr": 0.2}, "drawn": {}},
        **{"val_top1": 62.5, "weights": "best", "trials": 4},
    }


def test_of_equals_the_earliest_is_chosen(tmp_path):
    assert chosen(tmp_path, record(60.0), record(61.0), record(61.0), record(60.0))["trial"] == 2


def test_the_weights_of_the_report_are_those_that_count(tmp_path):
    records = (record(60.0, 59.0), record(62.0, 50.0), record(61.0, 60.0), record(1.0))
    assert chosen(tmp_path, *records)["trial"] == 2
    assert chosen(tmp_path, *records, weights="last")["trial"] == 3


def test_a_failed_trial_is_never_chosen(tmp_path):
    assert (
        chosen(tmp_path, record("training diverged"), record(1.0), record("training diverged"), record(0.5))["trial"]
        == 2
    )


def test_where_all_fail_one_sentence_says_so(tmp_path):
    with pytest.raises(UserError, match="no trial of kd finished, so none can be chosen; the first: it diverged at 7"):
        chosen(tmp_path, record("it diverged at 7"), record("b"), record("c"), record("d"))
    assert not (tmp_path / "choice.json").exists()


def test_a_record_without_accuracies_is_told(tmp_path):
    with pytest.raises(UserError, match=r"0\.json does not say what its trial reached"):
        chosen(tmp_path, {"status": "ok"})


# --- the table ----------------------------------------------------------------------------------------------------


def planned(root, number, method="kd", **drawn):
    folder = root / f"{method}_searched.trial{number}"
    return {
        **{"dataset": "toy", "pair": "big--small", "teachers": "big", "student": "small", "method": method},
        **{"trial": number, "seed": 1000, "drawn": drawn, "path": str(folder)},
        "choice": str(root / "choice.json"),
        "made": {"steps": [step(folder, "train_trial")], "before": [step(root / "teacher", "train_teacher")]},
        "chosen_by": step(root, "choose"),
    }


def leave(root, number, best, epochs=4):
    folder = root / f"kd_searched.trial{number}"
    costs = {"flops": {"train": 100.0 * number}, "seconds": {"train": 2.5}, "epochs": epochs, "best_epoch": 3}
    write_json(folder / "run.json", {**record(best), **costs})
    finished(folder, "train_trial")


def rows_of(root, *runs):
    collect_trials(runs, root / "trials.csv")
    return read_trials(root / "trials.csv")


def test_every_trial_is_a_row_with_its_settings_its_cost_and_its_reason(tmp_path):
    leave(tmp_path, 1, 61.25)
    leave(tmp_path, 2, 63.5)
    leave(tmp_path, 3, "loss became NaN\nin epoch 2", epochs=1)
    failed(tmp_path / "kd_searched.trial4", "train_trial", "out of memory")
    write_json(tmp_path / "choice.json", {"trial": 2})
    finished(tmp_path, "choose")
    runs = [planned(tmp_path, k, **{"recipe.lr": k / 100, "kd.temperature": 4.0}) for k in (1, 2, 3, 4, 5)]
    rows = rows_of(tmp_path, *runs, planned(tmp_path, 1, "ce", **{"recipe.lr": 0.5}))
    assert [(row.trial, row.status, row.reason, row.chosen, row.val_top1_best, row.train_flops) for row in rows] == [
        (1, "ok", "", False, 61.25, 100.0),
        (2, "ok", "", True, 63.5, 200.0),
        (3, "failed", "loss became NaN in epoch 2", False, None, 300.0),
        (4, "failed", "out of memory", False, None, None),
        (5, "missing", "it was not trained", False, None, None),
        (1, "missing", "it was not trained", False, None, None),
    ]
    assert rows[1].drawn == {"recipe.lr": "0.02", "kd.temperature": "4.0"}
    assert rows[5].drawn == {"recipe.lr": "0.5"}
    assert (rows[2].epochs, rows[2].best_epoch) == (1, None)


def test_a_trial_whose_teacher_failed_says_so(tmp_path):
    failed(tmp_path / "teacher", "train_teacher", "it was killed")
    (row,) = rows_of(tmp_path, planned(tmp_path, 1))
    assert (row.status, row.reason) == ("missing", f"{tmp_path / 'teacher'} failed before it: it was killed")


def test_numbers_made_from_something_else_are_not_shown(tmp_path):
    leave(tmp_path, 1, 61.0)
    record_file = tmp_path / "kd_searched.trial1" / "made" / "train_trial.json"
    record_file.write_text(json.dumps({"identity": "another", "files": {}}), encoding="utf-8")
    (row,) = rows_of(tmp_path, planned(tmp_path, 1))
    assert (row.status, row.val_top1_best) == ("missing", None)


def test_another_table_is_refused(tmp_path):
    (tmp_path / "trials.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="is not a table of trials"):
        read_trials(tmp_path / "trials.csv")

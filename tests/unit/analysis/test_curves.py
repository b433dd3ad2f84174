import numpy as np
import pytest

from kd.analysis.curves import over_seeds, read_curves, write_curves
from kd.analysis.rows import RunRow
from kd.tools.errors import UserError


def left(folder, body, columns="epoch,val_top1"):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(f"{columns}\n{body}", encoding="utf-8")
    return folder


def row(folder, method, seed, status="ok", kind="student"):
    identity = {"experiment": "e", "dataset": "toy", "pair": "a--b", "teachers": "a", "student": "b"}
    named = {"method": method, "base_method": method, "seed": seed, "kind": kind}
    return RunRow(**identity, **named, status=status, reason="", path=str(folder))


def test_a_seed_that_ended_keeps_its_last_value(tmp_path):
    one, two = left(tmp_path / "a", "0,1.0\n1,2.0\n2,3.0\n"), left(tmp_path / "b", "0,3.0\n1,\n2,nan\n")
    curves = over_seeds([one, two, tmp_path / "gone"], "val_top1")
    assert curves.epochs.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(curves.mean, [2.0, 2.5, 3.0])
    np.testing.assert_array_equal(curves.low, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(curves.high, [3.0, 3.0, 3.0])


def test_a_seed_that_begins_later_is_not_counted_before(tmp_path):
    one, two = left(tmp_path / "a", "1,1.0\n2,2.0\n"), left(tmp_path / "b", "2,4.0\n3,5.0\n")
    curves = over_seeds([one, two], "val_top1")
    assert (curves.epochs.tolist(), curves.mean.tolist()) == ([1, 2, 3], [1.0, 3.0, 3.5])


def test_nothing_to_draw(tmp_path):
    assert over_seeds([left(tmp_path / "a", "0,1.0\n", "epoch,train_loss")], "val_top1") is None


def test_curves_of_finished_students_and_links_are_kept(tmp_path):
    columns = "epoch,train_loss,val_top1"
    folders = {name: left(tmp_path / name, "1,2.5,10.0\n2,1.5,20.0\n", columns) for name in "abcde"}
    left(tmp_path / "f", "1,3.5,30.0\n2,0.5,33.3333333\n", columns)
    rows = [row(folders["a"], "kd", 0), row(tmp_path / "f", "kd", 1), row(folders["b"], "kd.gen1", 0, kind="link")]
    rows += [row(folders["c"], "at", 0, status="failed"), row(folders["d"], "teacher", 0, kind="teacher")]
    write_curves(rows, tmp_path / "curves.csv")
    found = read_curves(tmp_path / "curves.csv")
    assert list(found) == [("toy", "a--b", "kd"), ("toy", "a--b", "kd.gen1")]
    kept = found["toy", "a--b", "kd"]
    assert list(kept) == ["train_loss", "val_top1"]
    assert kept["train_loss"].mean.tolist() == [3.0, 1.0]
    assert (kept["val_top1"].low.tolist(), kept["val_top1"].high.tolist()) == ([10.0, 20.0], [30.0, 33.33333])


@pytest.mark.parametrize(
    "text", ["method,epoch\nkd,1\n", "dataset,pair,method,curve,epoch,mean,low,high\na,b,c,val_top1,one,1,1,1\n"]
)
def test_another_table_is_refused_by_name(tmp_path, text):
    path = tmp_path / "curves.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"curves\.csv is damaged: it is no table of curves"):
        read_curves(path)
    with pytest.raises(UserError, match=r"cannot read .*none\.csv"):
        read_curves(tmp_path / "none.csv")

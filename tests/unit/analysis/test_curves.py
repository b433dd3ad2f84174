import numpy as np

from kd.analysis.curves import read_curves


def test_a_seed_that_ended_keeps_its_last_value(tmp_path):
    for name, body in (("a", "0,1.0\n1,2.0\n2,3.0\n"), ("b", "0,3.0\n1,\n2,nan\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("epoch,val_top1\n" + body, encoding="utf-8")
    curves = read_curves([tmp_path / "a", tmp_path / "b", tmp_path / "gone"], "val_top1")
    assert curves.epochs.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(curves.mean, [2.0, 2.5, 3.0])
    np.testing.assert_array_equal(curves.low, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(curves.high, [3.0, 3.0, 3.0])


def test_nothing_to_draw(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train_loss\n0,1.0\n", encoding="utf-8")
    assert read_curves([tmp_path], "val_top1") is None

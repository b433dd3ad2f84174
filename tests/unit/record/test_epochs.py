"""metrics.csv."""

from kd.record.epochs import write_metrics


def test_metrics_keep_columns_of_all_rows(tmp_path):
    write_metrics(tmp_path / "metrics.csv", [{"epoch": 1, "a": 0.5}, {"epoch": 2, "b": None}])
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8") == "epoch,a,b\n1,0.5,\n2,,\n"


def test_numbers_have_six_digits(tmp_path):
    write_metrics(tmp_path / "metrics.csv", [{"epoch": 10_000_000, "a": 1 / 3}])
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8") == "epoch,a\n10000000,0.333333\n"


def test_a_training_without_epochs_has_a_header(tmp_path):
    write_metrics(tmp_path / "metrics.csv", [])
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8") == "epoch\n"

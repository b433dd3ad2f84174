"""metrics.csv."""

from kd.record.epochs import write_metrics


def test_metrics_keep_columns_of_all_rows(tmp_path):
    write_metrics(tmp_path / "metrics.csv", [{"epoch": 1, "a": 0.5}, {"epoch": 2, "b": None}])
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8") == "epoch,a,b\n1,0.5,\n2,,\n"

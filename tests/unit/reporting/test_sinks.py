"""What other programs are given of finished runs: read back by those programs themselves."""

import json

import pytest

from kd.analysis.runs import read_runs
from kd.reporting import sinks
from kd.reporting.sinks import check_library, history, write_tensorboard, write_wandb
from kd.tools.errors import UserError


@pytest.fixture
def finished(small):
    return [row for row in read_runs(small.runs_csv) if row.status == "ok"]


def test_tensorboard_reads_every_epoch_and_the_results(finished, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = write_tensorboard(finished, tmp_path / "board")
    assert set(written) == {row.path for row in finished}
    for row in finished:
        events = EventAccumulator(str((tmp_path / "board" / written[row.path]).parent))
        events.Reload()
        found = [(event.step, event.value) for event in events.Scalars("val/top1")]
        # as the fixture wrote them: half of what is missing goes with each epoch
        top1 = row.number("test_top1_best")
        assert found == [(e, pytest.approx(top1 * (1 - 0.5 ** (e + 1)), abs=1e-3)) for e in range(4)]
        (last,) = events.Scalars("result/test_top1_best")
        assert (last.step, last.value) == (3, pytest.approx(top1))
        assert "stage" not in events.Tags()["scalars"]


def test_the_same_runs_give_the_same_bytes(finished, tmp_path):
    first, second = (write_tensorboard(finished, tmp_path / name) for name in ("one", "two"))
    assert first == second
    for place in first.values():
        assert (tmp_path / "one" / place).read_bytes() == (tmp_path / "two" / place).read_bytes()


def test_times_are_those_of_training(small):
    row = read_runs(small.runs_csv)[0]
    table = "epoch,stage,seconds,val_top1\n1,train,2.5,10\n2,train,1.5,\n"
    with open(f"{row.path}/metrics.csv", "w", encoding="utf-8") as file:
        file.write(table)
    first, second = history(row)
    assert (first.number, first.seconds, first.values) == (1, 2.5, {"seconds": 2.5, "val/top1": 10.0})
    assert (second.seconds, second.values) == (4.0, {"seconds": 1.5}), "an empty cell is no number"


def test_wandb_is_given_the_same_without_a_network(finished, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is no part of the pinned environment")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    row = finished[0]
    written = write_wandb([row], tmp_path, "project", None)
    (file,) = (tmp_path / "wandb" / written[row.path]).glob("run-*.wandb")
    steps, name = [], None
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = {item.nested_key[0] if item.nested_key else item.key: item for item in record.history.item}
            steps.append(tuple(json.loads(items[key].value_json) for key in ("epoch", "val/top1")))
        if record.HasField("run"):
            name = record.run.project
    assert steps == [(epoch.number, epoch.values["val/top1"]) for epoch in history(row)]
    assert name == "project"


def log_records(content):
    """Yield the records of a LevelDB log that fits into one block, as small runs do, behind W&B's own header."""
    place = 7
    while place + 7 <= len(content):
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        yield content[place + 7 : place + 7 + length]
        place += 7 + length


@pytest.mark.parametrize("sink", ["tensorboard", "wandb"])
def test_a_missing_library_is_told(sink, monkeypatch):
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"report.sinks: {sink} needs the package {sink}, which is not installed"):
        check_library(sink)


def test_the_list_needs_none(monkeypatch):
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    check_library("results_list")

"""What run.json and config.yaml hold."""

import torch
import yaml

from kd.record.run_json import run_record, write_settings

CPU = torch.device("cpu")


def test_a_record_says_what_a_run_was_made_from_and_where():
    digests = {"code": "a", "inputs": "b", "split": "c"}
    record = run_record({"seed": 1}, digests, CPU, "fp32", 1.23456, kernels={"student": 1}, epochs=3)
    assert (record["status"], record["settings"], record["digests"]) == ("ok", {"seed": 1}, digests)
    assert record["seconds"] == {"train": 1.235}
    assert record["epochs"] == 3
    assert record["hardware"]["kernels"] == {"student": 1}
    assert (record["hardware"]["device"], record["hardware"]["precision"]) == ("cpu", "fp32")
    assert record["peak_memory_mb"] > 0
    assert {"torch", "timm", "python"} <= record["versions"].keys()
    assert "commit" in record["git"]


def test_a_pass_says_nothing_of_kernels():
    assert "kernels" not in run_record({}, {}, CPU, "fp32", 0.0)["hardware"]


def test_settings_can_be_read_back(tmp_path):
    settings = {"seed": 1, "recipe": {"lr": 0.1, "milestones": []}}
    write_settings(tmp_path, settings)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8")) == settings

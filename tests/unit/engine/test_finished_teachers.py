"""A finished teacher is used as it is: its weights, no epoch, no cost; anything less than whole is refused."""

import csv
import json

import pytest
import torch
from told import told

from kd.console.training_script import describe, planned_epochs
from kd.engine.jobs.evaluate import evaluate_network
from kd.engine.jobs.files import Files
from kd.engine.jobs.student import train_student
from kd.models.build import build_model
from kd.models.weights import read_state, save_weights
from kd.schema.config import ModelSettings
from kd.study.job_settings import parse_settings
from kd.tools.errors import UserError

SIZE = 8


def finished(world, path):
    """Return the job of a teacher whose weights are given, and the plan that it is part of."""
    here = world("kd", models={"wrn_16_1": {"arch": "wrn_16_1", "pretrained": str(path), "train": False}})
    return here, parse_settings(told(here.plan, "train_teacher", "digits", "wrn_16_1", 0))


def use(here, job):
    files = Files(here.packed, here.folder / "teacher", code="test")
    return train_student(job, files, lambda row: None), files.folder


def test_its_weights_are_used_and_nothing_is_trained(world):
    weights = world("kd").teacher("wrn_16_1")
    here, job = finished(world, weights)
    assert planned_epochs(job) == 0
    assert "used as it is" in describe(job)
    result, folder = use(here, job)
    assert (result.rows, result.seconds, result.flops) == ([], 0.0, 0.0)
    given, _ = read_state(weights)
    for name in ("best", "last"):
        kept, notes = read_state(folder / "checkpoints" / f"{name}.safetensors")
        assert kept.keys() == given.keys()
        assert all(torch.equal(value, kept[key]) for key, value in given.items())
        assert notes["epoch"] == "0"
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["trained"] is False
    assert (record["epochs"], record["seconds"]["train"], record["flops"]["train"]) == (0, 0.0, 0.0)
    assert record["pretrained"]["file"] == str(weights)
    assert record["pretrained"]["not_loaded"] == record["pretrained"]["adapted"] == []
    first = json.loads((weights.parents[1] / "run.json").read_text(encoding="utf-8"))
    with (weights.parents[1] / "metrics.csv").open(encoding="utf-8") as file:
        best = float(list(csv.DictReader(file))[first["best_epoch"] - 1]["val_top1"])
    assert record["validation"]["val_top1"] == pytest.approx(best, abs=1e-4)
    assert (folder / "config.yaml").is_file()
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == []
    assert not (folder / "resume.pt").exists()


def test_it_teaches_as_the_teacher_that_it_was(world):
    weights = world("kd").teacher("wrn_16_1")
    here, job = finished(world, weights)
    _, folder = use(here, job)
    lessons = []
    for name, teacher in (("given", folder / "checkpoints" / "best.safetensors"), ("trained", weights)):
        files = Files(here.packed, here.folder / name, teachers=[teacher], code="test")
        lessons.append(train_student(here.job(), files, lambda row: None).last)
    assert all(torch.equal(value, lessons[1][name]) for name, value in lessons[0].items())


def test_it_is_evaluated_as_any_other(world):
    weights = world("kd").teacher("wrn_16_1")
    here, job = finished(world, weights)
    _, folder = use(here, job)
    evaluation = parse_settings(told(here.plan, "evaluate_teacher", "digits", "wrn_16_1", 0))
    found = evaluate_network(evaluation, here.packed, folder / "checkpoints" / "best.safetensors")
    assert found["test"].logits.shape[1] == 10


@pytest.mark.parametrize(
    ("arch", "classes", "sentence"),
    [
        ("wrn_16_1", 7, r"train: false uses .*other\.safetensors as it is, but it does not give fc"),
        ("resnet14", 10, r"other\.safetensors does not fit wrn_16_1 \(the file holds resnet14"),
    ],
    ids=["head of other classes", "another network"],
)
def test_weights_that_are_not_the_networks_are_refused(world, tmp_path, arch, classes, sentence):
    path = tmp_path / "other.safetensors"
    save_weights(build_model(ModelSettings(arch=arch), classes, SIZE), path)
    here, job = finished(world, path)
    with pytest.raises(UserError, match=sentence):
        use(here, job)
    assert not (here.folder / "teacher" / "checkpoints").exists()


def test_weights_that_had_to_be_adapted_are_refused(world, tmp_path):
    path = tmp_path / "large.safetensors"
    save_weights(build_model(ModelSettings(arch="timm:resnet18", small_input=False), 10, 32), path)
    here, job = finished(world, path)
    network = ModelSettings(arch="timm:resnet18", pretrained=str(path), small_input=True, train=False)
    job = job.model_copy(update={"student": network})
    with pytest.raises(UserError, match=r"but net\.conv1\.weight could not stay as it was: set small_input: false"):
        use(here, job)


def test_a_teacher_at_chance_is_told(world, tmp_path, caplog):
    path = tmp_path / "shuffled.safetensors"
    model = build_model(ModelSettings(arch="wrn_16_1"), 10, SIZE)
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data[:] = torch.arange(10.0)  # always the last class
    save_weights(model, path)
    here, job = finished(world, path)
    with caplog.at_level("INFO"):
        use(here, job)
    assert "used as it is: top-1 on validation 10.00 %" in caplog.text
    assert "no better than chance: are the file's classes those of the data, in the same order?" in caplog.text


def test_a_pretrained_run_says_what_was_loaded(world, tmp_path):
    path = tmp_path / "seven.pth"
    torch.save({"state_dict_ema": build_model(ModelSettings(arch="resnet8"), 7, SIZE).state_dict()}, path)
    here = world("ce", models={"resnet8": {"arch": "resnet8", "pretrained": str(path)}})
    here.train()
    record = json.loads((here.folder / "run" / "run.json").read_text(encoding="utf-8"))["pretrained"]
    assert record["entry"] == "state_dict_ema"
    assert record["not_loaded"] == ["fc.bias", "fc.weight"]
    assert record["loaded"] > 20
    fresh = world("ce")
    fresh.train("fresh")
    assert json.loads((here.folder / "fresh" / "run.json").read_text(encoding="utf-8"))["pretrained"] is None


def test_other_initial_weights_under_the_same_name_begin_afresh(world, tmp_path, caplog):
    path = tmp_path / "w.safetensors"
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_weights(build_model(ModelSettings(arch="resnet8"), 10, SIZE), path)
        here = world("ce", models={"resnet8": {"arch": "resnet8", "pretrained": str(path)}})
        with pytest.raises(KeyboardInterrupt):
            here.train(on_epoch=interrupt)
    assert "belongs to other settings, code or inputs" in caplog.text


def interrupt(row):
    raise KeyboardInterrupt

"""A teacher that learns a share of the classes: which images it has, and what everybody else still sees."""

import numpy as np
import torch
from told import told

from kd.data.splits import classes_of
from kd.engine.data import load_data
from kd.schema.config import ClassShare
from kd.study.experiment import check_experiment
from kd.study.job_settings import parse_settings
from kd.study.plan import Plan
from kd.tools.files import read_json, whole_crc32, write_json

SHARES = {"left": {"overlap": 0.2, "side": "first"}, "right": {"overlap": 0.2, "side": "second"}}


def plan_of() -> Plan:
    return Plan(
        check_experiment(
            {
                "experiment": "unit",
                "datasets": {"digits": {"source": "digits", "image_size": 8, "subset_size": 200, "validation": 0.2}},
                "models": {name: {"arch": "resnet8", "classes": share} for name, share in SHARES.items()},
                "pairs": [{"teachers": list(SHARES), "student": "wrn_16_1"}],
                "methods": ["ce", "avg_kd"],
                "seeds": [3],
                "recipe": {"epochs": 1},
            }
        )
    )


def seen(store) -> set[int]:
    return set(store.labels.tolist())


def test_teachers_train_and_select_on_their_classes_and_are_tested_on_all(packed):
    plan, device = plan_of(), torch.device("cpu")
    student = load_data(packed, parse_settings(told(plan, "train_student", plan.runs[-1])), device)
    assert seen(student.train) == seen(student.validation) == set(range(10))
    found = {}
    for name, share in SHARES.items():
        data = load_data(packed, parse_settings(told(plan, "train_teacher", "digits", name, 3)), device)
        own = set(classes_of(ClassShare(**share), 10, 3).tolist())
        assert seen(data.train) == seen(data.validation) == own
        assert seen(data.test) == set(range(10))
        assert data.num_classes == 10, "the head has all classes"
        assert set(data.train._indices.tolist()) <= set(student.train._indices.tolist()), "no validation image is seen"
        counted = sum(int((student.train.labels == label).sum()) for label in own)
        assert len(data.train) == counted
        evaluated = load_data(packed, parse_settings(told(plan, "evaluate_teacher", "digits", name, 3)), device)
        assert seen(evaluated.validation) == set(range(10))
        found[name] = own
    assert len(found["left"] & found["right"]) == 2
    assert found["left"] | found["right"] == set(range(10))


def test_a_source_with_its_own_validation_is_cut_by_class_too(packed, tmp_path):
    folder = tmp_path / "packed"
    folder.mkdir()
    for path in packed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    images, labels = (np.load(packed / f"test_{kind}.npy") for kind in ("images", "labels"))
    np.save(folder / "val_images.npy", images)
    np.save(folder / "val_labels.npy", labels)
    manifest = read_json(folder / "manifest.json")
    manifest["counts"]["val"] = {"images": len(images)}
    manifest["checksums"] |= {path.name: whole_crc32(path) for path in folder.glob("val_*.npy")}
    write_json(folder / "manifest.json", manifest)
    data = load_data(folder, parse_settings(told(plan_of(), "train_teacher", "digits", "left", 3)), torch.device("cpu"))
    own = classes_of(ClassShare(**SHARES["left"]), 10, 3)
    assert seen(data.train) == seen(data.validation) == set(own.tolist())
    assert len(data.validation) == int(np.isin(labels, own).sum())


def test_the_classes_of_a_subset_are_named(packed, caplog):
    job = parse_settings(told(plan_of(), "train_teacher", "digits", "left", 3))
    dataset = {**job.dataset, "class_subset": [7, "2", 3], "subset_size": 60}
    with caplog.at_level("INFO"):
        data = load_data(packed, job.model_copy(update={"dataset": dataset, "student": None}), torch.device("cpu"))
    assert data.taken == ["7", "2", "3"]
    assert "class_subset takes, in the order of their labels: 7, 2, 3" in caplog.messages
    labels = np.load(packed / "train_labels.npy")
    assert set(labels[data.train._indices].tolist()) == {2, 3, 7}

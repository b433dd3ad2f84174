"""Small real trainings: the embedded digits, the smallest nets."""

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch
from told import told

from kd.data.packing import pack
from kd.engine.jobs.files import Files
from kd.engine.jobs.prestage import pretrain
from kd.engine.jobs.student import train_student
from kd.schema.config import DatasetSettings
from kd.study.experiment import check_experiment
from kd.study.job_settings import JobSettings, parse_settings
from kd.study.plan import Plan

DATASET = {"source": "digits", "image_size": 8, "subset_size": 200, "validation": 0.2}
RECIPE = {
    "epochs": 2,
    "batch_size": 32,
    "lr": 0.05,
    "schedule": "cosine",
    "augmentation": {"padding": 1, "flip": False},
}


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    pack(DatasetSettings(source="digits", image_size=8), folder, workers=1, progress=False)
    return folder


class World:
    """An experiment of one method on digits, and its jobs run in this process."""

    def __init__(
        self, packed: Path, folder: Path, method, recipe=None, dataset=None, models=None, beside=None, search=None
    ) -> None:
        self.packed, self.folder = packed, folder
        self.plan = Plan(
            check_experiment(
                {
                    "experiment": "unit",
                    "datasets": {"digits": {**DATASET, **(dataset or {})}},
                    "models": models or {},
                    "pairs": [{"teachers": ["wrn_16_1", "resnet14"], "student": "resnet8"}],
                    "methods": [method, *([beside] if beside else [])],
                    "seeds": [0],
                    "recipe": {**RECIPE, **(recipe or {})},
                    "teacher_recipe": {**RECIPE, "epochs": 8},
                    "search": search,
                }
            )
        )
        self.run = self.plan.runs[0]

    def job(self) -> JobSettings:
        return parse_settings(told(self.plan, "train_student", self.run))

    def half(self, stage: int, half: str) -> JobSettings:
        return parse_settings(told(self.plan, f"asib_{half}", self.run, stage))

    def teacher(self, name: str) -> Path:
        """Train a teacher (once a session for each of its settings) and return its weights."""
        settings = told(self.plan, "train_teacher", "digits", name, 0)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
        folder = self.packed.with_name(f"{self.packed.name}_teachers") / digest
        if not (folder / "run.json").exists():
            train_student(parse_settings(settings), Files(self.packed, folder), lambda row: None)
        return folder / "checkpoints" / "best.safetensors"

    def files(self, name: str, **more) -> Files:
        weights = [self.teacher(teacher) for teacher in self.run.teachers]
        if self.plan.variants[self.run.method].pretrain and "pretrained" not in more:
            more["pretrained"] = self.pretrained(weights)
        return Files(self.packed, self.folder / name, teachers=weights, code="test", **more)

    def pretrained(self, weights) -> Path:
        folder = self.folder / "pretrain"
        if not folder.exists():
            job = parse_settings(told(self.plan, "pretrain_method", "digits", self.run.teachers[0], self.run.method, 0))
            pretrain(job, Files(self.packed, folder, teachers=weights), lambda row: None)
        return folder / "extra.safetensors"

    def train(self, name: str = "run", on_epoch=lambda row: None):
        return train_student(self.job(), self.files(name), on_epoch)


@pytest.fixture(scope="session")
def world_in(packed):
    torch.set_num_threads(1)
    return lambda folder, method, **more: World(packed, folder, method, **more)


@pytest.fixture
def world(world_in, tmp_path):
    return partial(world_in, tmp_path)

"""Small class-incremental runs on the embedded digits."""

from pathlib import Path

import pytest
import torch
from continual_world import experiment
from told import told

from kd.continual import jobs
from kd.data.packing import pack
from kd.engine.jobs.files import Files
from kd.models.build import build_model
from kd.models.weights import save_weights
from kd.schema.config import DatasetSettings, ModelSettings
from kd.study.continual import ContinualJobSettings, parse_continual_settings
from kd.study.experiment import check_experiment
from kd.study.jobs.continual import taught
from kd.study.plan import Plan


class World:
    def __init__(self, packed: Path, folder: Path, strategy=None, recipe=None, **section) -> None:
        self.packed, self.folder = packed, folder
        self.plan = Plan(check_experiment(experiment(strategy, recipe, **section)))
        self.run = self.plan.continual.runs[0]

    def job(self) -> ContinualJobSettings:
        return parse_continual_settings(told(self.plan, "continual_run", self.run))

    def files(self, name: str = "run", code: str = "test") -> Files:
        teachers = [self.teacher(one.network) for one in taught(self.plan, self.run).teachers]
        return Files(self.packed, self.folder / name, teachers=teachers, code=code)

    def teacher(self, name: str) -> Path:
        """Weights nobody trained: what is distilled from them does not matter here."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():  # safetensors orders its metadata anew each time, and a run's stamp knows the bytes
            torch.manual_seed(5)
            save_weights(build_model(ModelSettings(arch=name), 10, 8), path)
        return path

    def train(self, name: str = "run", on_epoch=lambda row: None, **more):
        return jobs.train_run(self.job(), self.files(name, **more), on_epoch)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    pack(DatasetSettings(source="digits", image_size=8), folder, workers=1, progress=False)
    return folder


@pytest.fixture
def world(digits, tmp_path):
    torch.set_num_threads(1)
    return lambda strategy=None, **more: World(digits, tmp_path, strategy, **more)

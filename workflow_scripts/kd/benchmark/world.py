"""What both loops train on and with: packed images, weights of the teachers, jobs made ready."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd.benchmark.settings import DATASET, Settings
from kd.data.packed import Packed
from kd.data.packing import MANIFEST, pack
from kd.engine.feed import derived_seed
from kd.engine.jobs import Files, Workbench, prepare
from kd.models.build import build_model
from kd.models.weights import save_weights
from kd.spec.chain import STUDENT_UPDATE
from kd.spec.config import DatasetSettings, ModelSettings
from kd.spec.errors import UserError
from kd.spec.job import Job, parse_job

SYNTHETIC_IMAGES = 50_000  # as many as CIFAR has
TEST_SHARE = 0.02


class World:
    """A folder of images and weights, and the jobs of a comparison."""

    def __init__(self, settings: Settings, folder: Path, weights: Sequence[Path] = ()) -> None:
        if weights and len(weights) != len(settings.teachers):
            raise UserError(f"{len(weights)} files of weights for {len(settings.teachers)} teachers: give one for each")
        self.settings, self.folder = settings, folder
        self.data = _images(settings, folder)
        packed = Packed(self.data)
        self.num_classes, self.image_size = packed.num_classes, packed.image_size
        self.mean, self.std = packed.mean, packed.std
        self.weights = list(weights) or [self._untrained(name) for name in settings.teachers]

    def workbench(self, entry: str | dict[str, Any], reference: bool, seed: int = 0) -> Workbench:
        """Return a method's networks, data and loss made ready by the engine; fp32 and NCHW for the reference."""
        job, weights = self.job(entry, reference, seed)
        return prepare(job, Files(data=self.data, folder=self.folder / "run", teachers=weights))

    def job(self, entry: str | dict[str, Any], reference: bool, seed: int = 0) -> tuple[Job, list[Path]]:
        """Return the job of one method and the weights of the teachers that it learns from."""
        plan = self.settings.plan(entry, reference, seed)
        (run,) = plan.runs
        (variant,) = plan.variants.values()
        # of a chain of jobs, the half that trains the student
        text = plan.half_job(run, 1, STUDENT_UPDATE) if variant.chain else plan.student_job(run)
        known = dict(zip(self.settings.teachers, self.weights, strict=True))
        return parse_job(text), [known[name] for name in run.teachers]

    def teacher_job(self, name: str) -> Job:
        """Return the job that trains a teacher with the engine."""
        return parse_job(self.settings.plan("ce", reference=False).teacher_job(DATASET, name, 0))

    def _untrained(self, arch: str) -> Path:
        """Write a network as it is initialised: a forward pass costs the same whatever the weights."""
        path = self.folder / f"{arch.replace(':', '_')}-{self.num_classes}-{self.image_size}.safetensors"
        if not path.exists():
            torch.manual_seed(derived_seed(0, arch))
            save_weights(build_model(ModelSettings(arch=arch), self.num_classes, self.image_size), path, {"arch": arch})
        return path


def _images(settings: Settings, folder: Path) -> Path:
    """Return a packed folder: the one given, archives packed into one, or synthetic images."""
    given = [Path(path) for path in settings.data]
    if not given:
        images = settings.train_images or SYNTHETIC_IMAGES
        return synthetic(folder, images, settings.classes, settings.image_size)
    if len(given) == 1 and given[0].is_dir():
        return given[0]
    target = folder / "packed"
    if not (target / MANIFEST).exists():
        missing = [str(path) for path in given if not path.is_file()]
        if missing:
            raise UserError(f"data: {missing[0]} is neither a packed folder nor an archive")
        pack(DatasetSettings(source="imagefolder", archives=settings.data), target, workers=1, progress=True)
    return target


@cache
def synthetic(folder: Path, images: int, classes: int, size: int) -> Path:
    """Pack random images, all classes equally often, and return their folder."""
    target = folder / f"synthetic-{images}-{classes}-{size}"
    target.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    counts = {"train": images, "test": max(classes, round(TEST_SHARE * images))}
    for split, count in counts.items():
        np.save(target / f"{split}_images.npy", draws.integers(0, 256, (count, 3, size, size), dtype=np.uint8))
        np.save(target / f"{split}_labels.npy", np.arange(count, dtype=np.int64) % classes)
    manifest = {
        "source": "synthetic",
        "classes": [f"class{k}" for k in range(classes)],
        "counts": {split: {"images": count} for split, count in counts.items()},
        "shape": [3, size, size],
        "mean": [0.5] * 3,
        "std": [0.289] * 3,  # of a uniform distribution
        "digests": {},
    }
    (target / MANIFEST).write_text(json.dumps(manifest))
    return target

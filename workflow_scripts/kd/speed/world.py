"""What both loops train on and with: packed images, weights of the teachers, jobs made ready."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch

from kd.data.packed import Packed
from kd.data.packing import pack
from kd.engine.jobs.files import Files
from kd.engine.jobs.tune import tune
from kd.engine.jobs.workbench import Workbench, prepare
from kd.engine.seeds import derived_seed
from kd.formats.cifar import ARCHIVE_SUFFIXES, CIFARS
from kd.models.build import build_model
from kd.models.weights import save_weights
from kd.schema.config import DatasetSettings, ModelSettings
from kd.speed.settings import DATASET, Entry, Settings
from kd.study.chain import STUDENT_UPDATE
from kd.study.digests import text_digest
from kd.study.job_settings import JobSettings, parse_settings
from kd.study.jobs import Jobs
from kd.study.made import MANIFEST
from kd.tools.errors import UserError
from kd.tools.files import whole_crc32, write_json

SYNTHETIC_IMAGES = 50_000  # as many as CIFAR has
TEST_SHARE = 0.02
DIGITS: Final = "digits"


class World:
    """A folder of images and weights, and the jobs of a comparison."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        weights = [Path(path) for path in settings.weights]
        if weights and len(weights) != len(settings.teachers):
            raise UserError(f"{len(weights)} files of weights for {len(settings.teachers)} teachers: give one for each")
        self.settings, self.folder = settings, folder
        self.data = _images(settings, folder)
        packed = Packed(self.data)
        self.num_classes, self.image_size = packed.num_classes, packed.image_size
        self.mean, self.std = packed.mean, packed.std
        self.weights = weights or [self._untrained(name) for name in settings.teachers]

    def workbench(self, entry: Entry, reference: bool, seed: int = 0) -> Workbench:
        """Return a method's networks, data and loss made ready by the engine; fp32 and NCHW for the reference."""
        ((job, files),) = self.jobs([entry], reference, seed)
        return prepare(job, files)

    def jobs(self, entries: Sequence[Entry], reference: bool, seed: int = 0) -> list[tuple[JobSettings, Files]]:
        """Return the job of each method with what it reads and the folder that it may write."""
        plan = self.settings.plan(entries, reference, seed)
        jobs = Jobs(plan)
        known = dict(zip(self.settings.teachers, self.weights, strict=True))
        found = []
        for run in plan.runs:
            # of a chain of jobs, the half that trains the student
            chain = plan.variants[run.method].chain
            rule, *which = (f"asib_{STUDENT_UPDATE}", run, 1) if chain else ("train_student", run)
            job, weights = parse_settings(jobs.of(rule, *which).settings), [known[name] for name in run.teachers]
            open_ = job.recipe.precision == job.recipe.kernels == "auto"
            tuned = [self._tuned(jobs, name) for name in plan.taught(run).networks] if open_ else []
            files = Files(data=self.data, folder=self.folder / run.path, teachers=weights, tuned=tuned)
            found.append((job, files))
        return found

    def _tuned(self, jobs: Jobs, network: str) -> Path:
        """Return how a network runs fastest, measured at first as the workflow does before long trainings."""
        job = jobs.of("tune", DATASET, network).settings
        folder = self.folder / "tuned" / text_digest(job)
        if not (folder / "choice.json").exists():
            tune(parse_settings(job), Files(data=self.data, folder=folder))
        return folder / "choice.json"

    def teacher_job(self, name: str) -> tuple[JobSettings, Files]:
        """Return the job that trains a teacher with the engine."""
        jobs = Jobs(self.settings.plan(["ce"], reference=False))
        job = parse_settings(jobs.of("train_teacher", DATASET, name, 0).settings)
        return job, Files(data=self.data, folder=self.folder / "teachers" / name.replace(":", "_"))

    def _untrained(self, arch: str) -> Path:
        """Write a network as it is initialised: a forward pass costs the same whatever the weights."""
        path = self.folder / f"{arch.replace(':', '_')}-{self.num_classes}-{self.image_size}.safetensors"
        if not path.exists():
            torch.manual_seed(derived_seed(0, arch))
            save_weights(build_model(ModelSettings(arch=arch), self.num_classes, self.image_size), path, {"arch": arch})
        return path


def _images(settings: Settings, folder: Path) -> Path:
    """Return a packed folder: the one given, what was given packed into one, or synthetic images."""
    if not settings.data:
        images = settings.train_images or SYNTHETIC_IMAGES
        return synthetic(folder, images, settings.classes, settings.image_size)
    given = Path(settings.data[0])
    if len(settings.data) == 1 and (given / MANIFEST).is_file():
        return given
    target = folder / "packed"
    if not (target / MANIFEST).exists():
        pack(source_of(settings.data), target, workers=1, progress=True)
    return target


def source_of(data: Sequence[str]) -> DatasetSettings:
    """Return what images there are behind 'digits', one folder, or archives."""
    if list(data) == [DIGITS]:
        return DatasetSettings(source=DIGITS)
    paths = [Path(path) for path in data]
    if len(paths) == 1 and paths[0].is_dir():
        for source, cifar in CIFARS.items():
            if (paths[0] / cifar.folder).is_dir() or (paths[0] / cifar.archive).is_file():
                return DatasetSettings(source=source, root=str(paths[0]))
        archives = sorted(str(path) for path in paths[0].iterdir() if path.name.lower().endswith(ARCHIVE_SUFFIXES))
        tree = {"archives": archives} if archives else {"root": str(paths[0])}
        return DatasetSettings(source="imagefolder", **tree)
    for path in paths:
        if not path.is_file():
            raise UserError(f"data: found {path}; allowed are {DIGITS}, one folder of images, or archives that exist")
    return DatasetSettings(source="imagefolder", archives=list(data))


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
        "checksums": {file.name: whole_crc32(file) for file in target.glob("*.npy")},
    }
    write_json(target / MANIFEST, manifest)
    return target

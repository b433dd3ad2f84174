"""The images of a job: packed arrays, cut into the splits that its seed decides."""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from kd.data.augment import Augmenter
from kd.data.packed import Packed
from kd.data.splits import Split, class_map, classes_of, classes_taken, make_split
from kd.data.store import ImageStore
from kd.models.base import Normalisation
from kd.study.digests import text_digest
from kd.study.job_settings import JobSettings
from kd.tools.errors import UserError, printable

TEST_RESIDENT_MB = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """Training and validation images on a device, and the test images once they are asked for."""

    train: ImageStore
    validation: ImageStore
    augmenter: Augmenter
    num_classes: int
    image_size: int
    digest: str
    """Digest of which images are in which split."""
    taken: list[str] | None
    """Names of the classes that `class_subset` takes, in the order of their labels; None where all are taken."""
    _packed: Packed
    _class_map: np.ndarray
    _device: torch.device

    @cached_property
    def normalisation(self) -> Normalisation:
        """Return how the images are normalised."""
        return Normalisation(*(tuple(map(float, values)) for values in (self.augmenter.mean, self.augmenter.std)))

    @cached_property
    def test(self) -> ImageStore:
        """Return the test images of the classes in use."""
        rows = _rows_of(np.arange(self.num_classes), self._class_map[self._packed.labels["test"]])
        return _store(self._packed, "test", rows, self._class_map, self._device, TEST_RESIDENT_MB, 0)


def load_data(folder: Path, job: JobSettings, device: torch.device) -> Data:
    """Open packed arrays and cut them as the job says: classes, subset, validation carve, all by its split seed.

    A network that learns a share of the classes has their training and validation images only; labels stay the same.
    """
    data = cut(Packed(folder), job, device)
    if data.taken is not None:
        log.info("class_subset takes, in the order of their labels: %s", ", ".join(map(printable, data.taken)))
    return data


def cut(packed: Packed, job: JobSettings, device: torch.device) -> Data:
    """Cut a packed data set as `load_data` does."""
    settings = job.loading()
    mapping = class_map(packed.classes, settings.class_subset)
    names = classes_taken(packed.classes, mapping)
    own = "val" in packed.splits
    num_classes = int(mapping.max()) + 1
    share = job.student.classes if job.student else None
    known = np.arange(num_classes) if share is None else classes_of(share, num_classes, job.split_seed)
    split = make_split(mapping[packed.labels["train"]], settings, job.split_seed, own, names)
    learnt = _rows_of(known, mapping[packed.labels["train"]])
    split = Split(np.intersect1d(split.train, learnt), np.intersect1d(split.validation, learnt))
    held_out, rows = ("val", _rows_of(known, mapping[packed.labels["val"]])) if own else ("train", split.validation)
    for name, found in (("training", split.train), ("validation", rows)):
        if not len(found):
            raise UserError(
                f"no {name} image is left of the classes that the network learns: take more images, or another "
                "share for validation"
            )
    reading = (mapping, device, settings.resident_limit_mb, job.recipe.workers)
    return Data(
        train=_store(packed, "train", split.train, *reading),
        validation=_store(packed, held_out, rows, *reading),
        augmenter=Augmenter(job.recipe.augmentation, packed.mean, packed.std),
        num_classes=num_classes,
        image_size=packed.image_size,
        digest=text_digest(split.train.tobytes().hex() + split.validation.tobytes().hex()),
        taken=None if settings.class_subset is None else names,
        _packed=packed,
        _class_map=mapping,
        _device=device,
    )


def _rows_of(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rows whose label is one of some classes; that of a class left out is -1."""
    return np.flatnonzero(np.isin(labels, classes))


def _store(
    packed: Packed,
    split: str,
    rows: np.ndarray,
    mapping: np.ndarray,
    device: torch.device,
    limit_mb: int,
    workers: int,
) -> ImageStore:
    """Return some rows of a packed split."""
    images, labels = packed.images[split], mapping[packed.labels[split]]
    size_mb = len(rows) * int(np.prod(images.shape[1:])) / 2**20
    return ImageStore(images, labels, rows, device, resident=size_mb <= limit_mb, workers=workers)

"""The images of a job: packed arrays, cut into the splits that its seed decides."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from kd.data.augment import Augmenter
from kd.data.packed import Packed
from kd.data.splits import class_map, make_split
from kd.data.store import ImageStore
from kd.spec.digests import text_digest
from kd.spec.job import Job

TEST_RESIDENT_MB = 4096


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
    _packed: Packed
    _class_map: np.ndarray
    _device: torch.device

    @cached_property
    def test(self) -> ImageStore:
        """Return the test images of the classes in use."""
        return _store(self._packed, "test", None, self._class_map, self._device, TEST_RESIDENT_MB, 0)


def load_data(folder: Path, job: Job, device: torch.device) -> Data:
    """Open packed arrays and cut them as the job says: classes, subset, validation carve, all by its split seed."""
    packed = Packed(folder)
    settings = job.loading()
    mapping = class_map(packed.classes, settings.class_subset)
    own = "val" in packed.splits
    split = make_split(mapping[packed.labels["train"]], settings, job.split_seed, own_validation=own)
    reading = (mapping, device, settings.resident_limit_mb, job.recipe.workers)
    train = _store(packed, "train", split.train, *reading)
    validation = _store(packed, "val", None, *reading) if own else _store(packed, "train", split.validation, *reading)
    return Data(
        train=train,
        validation=validation,
        augmenter=Augmenter(job.recipe.augmentation, packed.mean, packed.std),
        num_classes=int(mapping.max()) + 1,
        image_size=packed.image_size,
        digest=text_digest(split.train.tobytes().hex() + split.validation.tobytes().hex()),
        _packed=packed,
        _class_map=mapping,
        _device=device,
    )


def _store(
    packed: Packed,
    split: str,
    rows: np.ndarray | None,
    mapping: np.ndarray,
    device: torch.device,
    limit_mb: int,
    workers: int,
) -> ImageStore:
    """Return some rows of a packed split, or all of those whose class is in use."""
    images, labels = packed.images[split], mapping[packed.labels[split]]
    indices = np.flatnonzero(labels >= 0) if rows is None else rows
    size_mb = len(indices) * int(np.prod(images.shape[1:])) / 2**20
    return ImageStore(images, labels, indices, device, resident=size_mb <= limit_mb, workers=workers)

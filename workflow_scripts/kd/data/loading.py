"""Open the train, validation and test images of a packed data set as one run uses them."""

from dataclasses import dataclass

import numpy as np
import torch

from kd.data.packed import Packed
from kd.data.splits import class_map, make_split
from kd.data.store import ImageStore
from kd.spec.config import DatasetSettings


@dataclass(frozen=True)
class Stores:
    """What a run trains, selects and is tested on."""

    train: ImageStore
    validation: ImageStore
    test: ImageStore
    classes: list[str]
    """Names by (new) label."""


def open_stores(
    packed: Packed, settings: DatasetSettings, seed: int, device: torch.device | str, workers: int = 2
) -> Stores:
    """Apply `class_subset`, `subset_size`, `validation` and `resident_limit_mb`; the seed fixes the split.

    The three stores live on the device if together they take at most `resident_limit_mb` (2^20 bytes each).
    Errors: UserError for settings that the data cannot satisfy.
    """
    mapping = class_map(packed.classes, settings.class_subset)
    labels = {split: mapping[values] for split, values in packed.labels.items()}
    split = make_split(labels["train"], settings, seed, own_validation="val" in packed.splits)
    validation = "val" if "val" in packed.splits else "train"
    chosen = {
        "train": ("train", split.train),
        "validation": (validation, np.flatnonzero(labels["val"] >= 0) if validation == "val" else split.validation),
        "test": ("test", np.flatnonzero(labels["test"] >= 0)),
    }
    size = sum(len(rows) for _, rows in chosen.values()) * int(np.prod(packed.manifest["shape"]))
    resident = size <= settings.resident_limit_mb << 20
    stores = {
        name: ImageStore(packed.images[part], labels[part], rows, device, resident, workers)
        for name, (part, rows) in chosen.items()
    }
    return Stores(**stores, classes=_kept(packed.classes, mapping))


def _kept(classes: list[str], mapping: np.ndarray) -> list[str]:
    kept = [(new, name) for name, new in zip(classes, mapping.tolist(), strict=True) if new >= 0]
    return [name for _, name in sorted(kept)]

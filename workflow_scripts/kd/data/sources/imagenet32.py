"""Downsampled ImageNet (Chrabaszcz et al. 2017): pickled batches, labels counted from 1."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kd.data.cifar_pickles import checked_labels, planes_to_pixels
from kd.data.source import Block, Source, array_blocks
from kd.data.unpickle import load_pickle
from kd.schema.config import DatasetSettings
from kd.tools.errors import UserError

FILES = {"train": tuple(f"train_data_batch_{number}" for number in range(1, 11)), "test": ("val_data",)}
CLASS_NAMES = "map_clsloc.txt"


def open_source(settings: DatasetSettings) -> Source:
    """Open the ten training batches and the validation batch, which is the test split, in `root`.

    Class names come from `map_clsloc.txt` (folder, label, name on each line) where it is present, else they are the
    labels of the files, "1" and up.
    """
    assert settings.root is not None
    root = Path(settings.root)
    missing = [name for files in FILES.values() for name in files if not (root / name).is_file()]
    if missing:
        raise UserError(f"root {root} lacks {missing[0]}: expected train_data_batch_1 to _10 and val_data")
    # Labels first, batch by batch: only one batch of pixels is ever in memory.
    labels = {split: np.concatenate([_labels(root / name) for name in files]) for split, files in FILES.items()}

    def blocks() -> Iterator[Block]:
        for split, files in FILES.items():
            yield from array_blocks(split, ((str(root / name), _pixels(root / name)) for name in files))

    return Source(_classes(root, 1 + int(labels["train"].max())), labels, blocks, encoded=False)


def _batch(path: Path, *keys: str) -> list[Any]:
    content = load_pickle(path)
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise UserError(f"{path} is not a batch of downsampled ImageNet: it must hold {' and '.join(keys)}")
    return [content[key] for key in keys]


def _labels(path: Path) -> np.ndarray:
    data, given = _batch(path, "data", "labels")
    return checked_labels(given, len(planes_to_pixels(data, path)), path, first=1) - 1


def _pixels(path: Path) -> np.ndarray:
    return planes_to_pixels(_batch(path, "data")[0], path)


def _classes(root: Path, count: int) -> list[str]:
    path = root / CLASS_NAMES
    if not path.is_file():
        return [str(number) for number in range(1, count + 1)]
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    names = {int(fields[1]): fields[0] for fields in lines if len(fields) >= 2 and fields[1].isdecimal()}
    missing = [number for number in range(1, count + 1) if number not in names]
    if missing:
        raise UserError(f"{path} names no class for label {missing[0]}, of which the batches have images")
    return [names[number] for number in range(1, count + 1)]

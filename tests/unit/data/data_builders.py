"""Small data sets for the tests of kd.data."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    pixels[0, 0] = 255 - value
    Image.fromarray(pixels).save(path)


def write_tree(root: Path, splits=("train", "test"), classes=("ant", "bee", "cat"), count=4, size=(8, 8)) -> Path:
    """A tree root/<split>/<class>/<k>.png; with splits ("",) one undivided root."""
    value = 0
    for split in splits:
        for name in classes:
            for k in range(count):
                write_image(root / split / name / f"{k}.png", value % 256, size)
                value += 5
    return root


def write_cifar(root: Path, protocol: int = 2, count: int = 20) -> Path:
    """Small files with the names and keys of CIFAR-100's."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = ["ant", "bee", "cat", "dog"]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol))
    for split in ("train", "test"):
        batch = {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels": [k % 4 for k in range(count)],
        }
        (folder / split).write_bytes(pickle.dumps(batch, protocol))
    return root


def write_imagenet32(root: Path, count: int = 6, first_label: int = 1) -> Path:
    root.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in [*(f"train_data_batch_{k}" for k in range(1, 11)), "val_data"]:
        labels = [first_label + k % 3 for k in range(count)]
        batch = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "labels": labels}
        (root / name).write_bytes(pickle.dumps(batch))
    return root

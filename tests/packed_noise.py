"""Packed data sets of noise, of any size and number of classes."""

from pathlib import Path

import numpy as np

from kd.tools.files import whole_crc32, write_json

SPLITS = ("train", "test")


def pack_noise(folder: Path, size: int = 8, classes: int = 4, images: int = 48) -> Path:
    """Write a folder as packing does, with as many images in either split, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    for split in SPLITS:
        np.save(folder / f"{split}_images.npy", draws.integers(0, 255, (images, 3, size, size), dtype=np.uint8))
        np.save(folder / f"{split}_labels.npy", np.arange(images) % classes)
    manifest = {
        "source": "noise",
        "classes": [f"c{k}" for k in range(classes)],
        "counts": {split: {"images": images} for split in SPLITS},
        "shape": [3, size, size],
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "digests": {},
        "checksums": {path.name: whole_crc32(path) for path in folder.glob("*.npy")},
    }
    write_json(folder / "manifest.json", manifest)
    return folder

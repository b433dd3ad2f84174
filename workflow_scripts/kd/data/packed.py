"""A packed data set: arrays mapped from disk and their manifest."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kd.study.made import MANIFEST
from kd.tools.errors import UserError
from kd.tools.files import read_json, whole_crc32

_KEYS = ("source", "classes", "counts", "shape", "mean", "std", "digests", "checksums")


class Images(Mapping[str, np.ndarray]):
    """Arrays by split, each compared with its checksum when it is first asked for: a job checks what it reads, once.

    Arrays too large for memory are read whole for that too, once a job: the same bytes that an epoch reads.
    """

    def __init__(self, packed: "Packed", arrays: dict[str, np.ndarray], unchecked: bool) -> None:
        self._packed, self._arrays = packed, arrays
        self._checked: set[str] = set(arrays) if unchecked else set()

    def __getitem__(self, split: str) -> np.ndarray:
        array = self._arrays[split]
        if split not in self._checked:
            self._packed.check(split, "images")
            self._checked.add(split)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class Packed:
    """A folder that `pack` wrote, checked against its manifest: labels when it is opened, images when first used.

    `images[split]` is a read-only memory map (N, 3, S, S) uint8, `labels[split]` an int64 array; the splits are
    "train", "test" and, where the source brings its own, "val". Errors: UserError for a missing or changed file.
    """

    def __init__(self, folder: str | Path, unchecked: bool = False) -> None:
        """Open a folder; `unchecked` is for who looks at a few images, whose result does not depend on them."""
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = read_json(self.folder / MANIFEST, sealed=True)
        missing = [key for key in _KEYS if key not in self.manifest]
        if missing:
            raise UserError(f"{self.folder / 'manifest.json'} lacks {missing[0]}: pack the data set again")
        self.images = Images(self, {split: self._open(split, "images") for split in self.splits}, unchecked)
        self.labels = {split: np.array(self._open(split, "labels")) for split in self.splits}
        for split in self.splits:
            self.check(split, "labels")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are."""
        return tuple(self.manifest["counts"])

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of their labels."""
        return self.manifest["classes"]

    @property
    def num_classes(self) -> int:
        """How many classes the packed data have."""
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.manifest["shape"][-1]

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training images, in 0..1."""
        return tuple(self.manifest["mean"])

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel over the training images, in 0..1."""
        return tuple(self.manifest["std"])

    def check(self, split: str, kind: str) -> None:
        """Raise a UserError if an array is not the one that was packed."""
        path = self._path(split, kind)
        if whole_crc32(path) != self.manifest["checksums"].get(path.name):
            raise UserError(
                f"{path} is damaged, its content is not what was packed: delete the folder and pack it again"
            )

    def _path(self, split: str, kind: str) -> Path:
        return self.folder / f"{split}_{kind}.npy"

    def _open(self, split: str, kind: str) -> np.ndarray:
        path = self._path(split, kind)
        count = self.manifest["counts"][split]["images"]
        dtype, shape = (np.uint8, (count, *self.manifest["shape"])) if kind == "images" else (np.int64, (count,))
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing: pack the data set again") from error
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} is damaged, pack the data set again: {error}") from error
        if array.shape != shape or array.dtype != dtype:
            raise UserError(
                f"{path} holds {array.dtype} {array.shape}, its manifest says {np.dtype(dtype)} {shape}:"
                " pack the data set again"
            )
        return array

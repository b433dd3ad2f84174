"""What a data source gives to packing: class names, labels, and images block by block."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kd.spec.config import DatasetSettings
from kd.spec.errors import UserError

BLOCK_IMAGES = 128


@dataclass(frozen=True)
class Block:
    """Some images of one split: a piece of work that a decoding process can be sent."""

    split: str
    positions: np.ndarray
    """Rows of the split that the images belong in."""
    images: Sequence[bytes] | Sequence[str] | np.ndarray
    """Encoded files, paths of files, or pixels (n, H, W, 3) uint8."""
    names: Sequence[str]
    """What an error message calls each image."""


@dataclass(frozen=True)
class Source:
    """A data set as it was found, before packing."""

    classes: list[str]
    labels: dict[str, np.ndarray]
    """int64 labels of "train", "test" and, where the source has one, "val"."""
    blocks: Callable[[], Iterator[Block]]
    """Starts one pass over all images of all splits, in the order that is cheapest to read."""
    encoded: bool
    """Whether the images still have to be decoded, which is worth several processes."""


def open_source(settings: DatasetSettings) -> Source:
    """Open the source that the settings name; raises UserError for anything that cannot be used."""
    source = importlib.import_module(f"kd.data.sources.{settings.source}").open_source(settings)
    check_classes(source.classes, source.labels, settings.source)
    return source


def check_classes(classes: Sequence[str], labels: dict[str, np.ndarray], where: str) -> None:
    """Raise UserError unless there are two classes at least and each has an image in every split."""
    if len(classes) < 2:
        raise UserError(f"{where} holds {len(classes)} class ({', '.join(classes)}), at least 2 are needed")
    for split, values in labels.items():
        if values.size and not 0 <= values.min() <= values.max() < len(classes):
            raise UserError(f"{where}: a {split} label lies outside the {len(classes)} classes")
        missing = np.flatnonzero(np.bincount(values, minlength=len(classes)) == 0)
        if missing.size:
            raise UserError(f"{where}: class '{classes[missing[0]]}' has no {split} image")


def chunks(items: np.ndarray, size: int = BLOCK_IMAGES) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield consecutive slices of an array with the positions they cover."""
    for start in range(0, len(items), size):
        part = items[start : start + size]
        yield np.arange(start, start + len(part)), part


def array_blocks(split: str, parts: Iterable[tuple[str, np.ndarray]]) -> Iterator[Block]:
    """Yield the blocks of one split that is held as pixel arrays (n, H, W, 3), each with the name of its file."""
    done = 0
    for name, pixels in parts:
        for positions, images in chunks(pixels):
            # a copy: a view would keep one file's pixels in memory while the next file is read
            yield Block(split, done + positions, images.copy(), [name] * len(images))
        done += len(pixels)
        del pixels, images

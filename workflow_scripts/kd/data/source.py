"""What a data source gives to packing: class names, labels, and images block by block."""

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kd.schema.config import DatasetSettings
from kd.tools.errors import UserError, printable

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
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """How many files and folders of each kind are no pictures of a class: {".txt": 3, ".ipynb_checkpoints/": 1}."""


def open_source(settings: DatasetSettings) -> Source:
    """Open the source that the settings name; raises UserError for anything that cannot be used."""
    source = importlib.import_module(f"kd.data.sources.{settings.source}").open_source(settings)
    check_classes(source.classes, source.labels, settings.source)
    return source


def check_classes(classes: Sequence[str], labels: dict[str, np.ndarray], where: str) -> None:
    """Raise UserError unless there are two classes at least, of different names, each with an image in every split."""
    if len(classes) < 2:
        named = ", ".join(printable(name) for name in classes)
        raise UserError(f"{where} holds {len(classes)} class ({named}), at least 2 are needed")
    for name in classes:
        if not name.strip() or not _is_text(name):
            raise UserError(f"{where}: class '{printable(name)}' has no name that is text in UTF-8: rename it")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise UserError(f"{where}: two classes are named '{printable(twice[0])}'")
    for split, values in labels.items():
        if values.size and not 0 <= values.min() <= values.max() < len(classes):
            raise UserError(f"{where}: a {split} label lies outside the {len(classes)} classes")
        missing = np.flatnonzero(np.bincount(values, minlength=len(classes)) == 0)
        if missing.size:
            raise UserError(f"{where}: class '{printable(classes[missing[0]])}' has no {split} image")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a file name that are no UTF-8
        return False
    return True


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

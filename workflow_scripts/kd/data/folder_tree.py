"""Read a tree of class folders from the names of its files."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kd.data.source import Block, Source, chunks
from kd.data.splits import divide
from kd.spec.config import SplitRatios
from kd.spec.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass
class Listing:
    """Names of the images and folders below a root, with '/' between the parts."""

    where: str
    """What error messages call the root."""
    names: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    open_blocks: "Callable[[Layout], Iterator[Block]] | None" = None
    """Reads the images block by block."""

    def add(self, name: str) -> None:
        """Take in a file if it is an image; hidden files and what macOS leaves in archives are not."""
        last = name.rpartition("/")[2]
        if last.lower().endswith(IMAGE_SUFFIXES) and not last.startswith(".") and not name.startswith("__MACOSX/"):
            self.names.append(name)


@dataclass(frozen=True)
class Layout:
    """Which image belongs to which split and class."""

    classes: list[str]
    labels: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    """For each split, the positions of its images in the listing's names."""


def list_folder(root: Path, below: Iterable[str] = ("",)) -> Listing:
    """List the images in a folder, or only in some of its subfolders."""
    listing = Listing(str(root))
    for part in below:
        for folder, _, files in os.walk(root / part, followlinks=True):
            inside = Path(folder).relative_to(root).as_posix()
            if inside != ".":
                listing.folders.add(inside)
            for file in files:
                listing.add(file if inside == "." else f"{inside}/{file}")
    listing.open_blocks = lambda layout: _file_blocks(root, listing.names, layout)
    return listing


def _file_blocks(root: Path, names: list[str], layout: Layout) -> Iterator[Block]:
    for split, rows in layout.rows.items():
        for positions, part in chunks(rows):
            paths = [os.path.join(root, names[row]) for row in part]
            yield Block(split, positions, paths, paths)


def tree_source(listing: Listing, layout: Layout) -> Source:
    """Return the source of a listed tree."""
    read = listing.open_blocks
    assert read is not None
    return Source(layout.classes, layout.labels, lambda: read(layout), encoded=True)


def find_layout(listing: Listing, ratios: SplitRatios | None, seed: int) -> Layout:
    """Find splits and classes; folders that only wrap the tree are passed over.

    Errors: UserError for no images, missing split folders, an empty class folder, or splits whose classes differ.
    """
    if not listing.names:
        raise UserError(f"{listing.where} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    base = _find_base(listing, ratios is not None)
    divided = _is_divided(listing, base)
    if ratios is None:
        if not divided:
            raise UserError(
                f"{listing.where} needs a train folder and a val or test folder, or split_ratios to divide one root;"
                f" found {_some(_subfolders(listing, base))}"
            )
        return _divided_layout(listing, base)
    if divided:
        raise UserError(f"split_ratios divides one undivided root, but {listing.where} has train and test folders")
    grouped = _group(listing, base)
    classes, labels, rows = _flatten(grouped)
    parts = divide(labels, ratios, seed, listing.where)
    return Layout(classes, {s: labels[p] for s, p in parts.items()}, {s: rows[p] for s, p in parts.items()})


def _find_base(listing: Listing, undivided: bool) -> str:
    """Return the folder that holds the split or class folders: '' or 'a/b/'."""
    base = ""
    while True:
        folders = _subfolders(listing, base)
        only = next(iter(folders)) if len(folders) == 1 else None
        # A lone 'test' folder wraps an undivided root, and is half of a divided one.
        if only is None or not _subfolders(listing, f"{base}{only}/") or (only in SPLIT_FOLDERS and not undivided):
            return base
        base = f"{base}{only}/"


def _subfolders(listing: Listing, base: str) -> set[str]:
    skip = len(base)
    inside = {name[skip:].partition("/")[0] for name in listing.names if name.startswith(base) and "/" in name[skip:]}
    named = {name[skip:].partition("/")[0] for name in listing.folders if name.startswith(base)}
    return {name for name in inside | named if name and not name.startswith(".") and name != "__MACOSX"}


def _is_divided(listing: Listing, base: str) -> bool:
    """Tell split folders from classes that bear their names (CIFAR-100 has a class 'train')."""
    folders = _subfolders(listing, base)
    others = {SPLIT_FOLDERS[name] for name in folders & SPLIT_FOLDERS.keys()} - {"train"}
    return "train" in folders and bool(others) and bool(_subfolders(listing, f"{base}train/"))


def _divided_layout(listing: Listing, base: str) -> Layout:
    folders: dict[str, str] = {}
    for name in sorted(_subfolders(listing, base) & SPLIT_FOLDERS.keys()):
        if SPLIT_FOLDERS[name] in folders:
            raise UserError(f"{listing.where} has both {folders[SPLIT_FOLDERS[name]]} and {name}, which mean the same")
        folders[SPLIT_FOLDERS[name]] = name
    if "test" not in folders:
        folders["test"] = folders.pop("val")
    classes: list[str] = []
    labels, rows = {}, {}
    for split in ("train", "val", "test"):
        if split in folders:
            found, labels[split], rows[split] = _flatten(_group(listing, f"{base}{folders[split]}/"))
            classes = classes or found
            _check_same_classes(listing.where, classes, folders[split], found)
    return Layout(classes, labels, rows)


def _check_same_classes(where: str, train: list[str], folder: str, found: list[str]) -> None:
    if train != found:
        only = sorted(set(train) ^ set(found))
        place = "train" if only[0] in train else folder
        raise UserError(f"{where}: train and {folder} have different classes: '{only[0]}' is only in {place}")


def _group(listing: Listing, base: str) -> dict[str, list[int]]:
    """Return the images below each class folder, sorted by name."""
    grouped: dict[str, list[int]] = {name: [] for name in sorted(_subfolders(listing, base))}
    for row, name in enumerate(listing.names):
        if name.startswith(base):
            folder, inside, _ = name[len(base) :].partition("/")
            if inside and folder in grouped:
                grouped[folder].append(row)
    for folder, rows in grouped.items():
        if not rows:
            raise UserError(f"{listing.where}: class folder {base}{folder} holds no images")
        rows.sort(key=listing.names.__getitem__)
        for row, following in itertools.pairwise(rows):
            if listing.names[row] == listing.names[following]:
                raise UserError(f"{listing.where}: {listing.names[row]} is there twice")
    return grouped


def _flatten(grouped: dict[str, list[int]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    sizes = [len(rows) for rows in grouped.values()]
    labels = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    rows = np.fromiter((row for rows in grouped.values() for row in rows), np.int64, sum(sizes))
    return list(grouped), labels, rows


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return (", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")) or "no folders"

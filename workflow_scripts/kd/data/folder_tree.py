"""Read a tree of class folders from the names of its files."""

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kd.data.source import Block, Source, chunks
from kd.data.splits import divide
from kd.formats.trees import SPLIT_FOLDERS, holds_no_data, is_picture, kind_left_out, walk
from kd.schema.config import SplitRatios
from kd.tools.errors import UserError, printable

NO_CLASS = "images in no class folder of a split"
KINDS_TOLD = 20
"""So many kinds of what is passed over are told apart, the rest together."""


@dataclass
class Listing:
    """Names of the images and folders below a root, with '/' between the parts."""

    where: str
    """What error messages call the root."""
    names: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    open_blocks: "Callable[[Layout], Iterator[Block]] | None" = None
    """Reads the images block by block."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many files and folders of each kind are passed over."""
    again: dict[str, str] = field(default_factory=dict)
    """Folders that links lead to a second time, and where they were first."""
    _no_data: dict[str, bool] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Take in a file of an archive, if it is an image and in no folder that tools leave behind."""
        folder, _, last = name.rpartition("/")
        if not is_picture(last):
            self.pass_over(name, kind_left_out(last))
        elif not self._is_passed_over(folder):
            self.names.append(name)

    def pass_over(self, name: str, kind: str) -> None:
        """Count what an archive holds as one of a kind that is passed over, if it is in no folder that is."""
        if not self._is_passed_over(name.rpartition("/")[0]):
            self.left_out[kind] += 1

    def _is_passed_over(self, folder: str) -> bool:
        """Tell whether a folder or one around it holds no data; the outermost such is counted when first met."""
        if not folder:
            return False
        if folder not in self._no_data:
            around, _, last = folder.rpartition("/")
            inside = self._is_passed_over(around)
            here = not inside and holds_no_data(last)
            self.left_out[f"{last}/"] += here
            self._no_data[folder] = inside or here
        return self._no_data[folder]

    def passed_over(self) -> dict[str, int]:
        """Return how many files and folders of each kind are passed over, the commonest kinds first."""
        ordered = sorted(((kind, n) for kind, n in self.left_out.items() if n), key=lambda item: (-item[1], item[0]))
        rest = sum(count for _, count in ordered[KINDS_TOLD:])
        return dict(ordered[:KINDS_TOLD]) | ({"others": rest} if rest else {})


@dataclass(frozen=True)
class Layout:
    """Which image belongs to which split and class."""

    classes: list[str]
    labels: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    """For each split, the positions of its images in the listing's names."""


def list_folder(root: Path, below: Iterable[str] = ("",)) -> Listing:
    """List the images in a folder, or only in some of its subfolders; UserError for a folder that cannot be listed."""
    listing = Listing(str(root))
    for visit in walk(root, below):
        start = f"{visit.inside}/" if visit.inside else ""
        if visit.error is not None:
            place = printable(os.path.join(root, visit.inside))
            raise UserError(f"folder {place} cannot be listed: {visit.error.strerror or visit.error}")
        if visit.again is not None:
            listing.again[visit.inside] = visit.again
        if visit.inside:
            listing.folders.add(visit.inside)
        listing.folders.update(f"{start}{name}" for name in visit.folders)
        listing.names.extend(f"{start}{entry.name}" for entry in visit.pictures)
        listing.left_out.update(visit.left_out)
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
    used = sum(len(rows) for rows in layout.rows.values())
    listing.left_out[NO_CLASS] = len(listing.names) - used
    return Source(layout.classes, layout.labels, lambda: read(layout), True, listing.passed_over())


def find_layout(listing: Listing, ratios: SplitRatios | None, seed: int) -> Layout:
    """Find splits and classes; folders that only wrap the tree are passed over.

    Errors: UserError for no images, missing split folders, images outside class folders, an empty class folder, a
    folder that links make two of, or splits whose classes differ.
    """
    if not listing.names:
        raise UserError(f"{listing.where} holds no images; {_found(listing)}")
    base = _find_base(listing, ratios is not None)
    splits = set(_split_folders(listing, base).values())
    divided = "train" in splits and len(splits) > 1
    if ratios is None:
        if not divided:
            raise UserError(
                f"{listing.where} needs a train folder and a val or test folder, or split_ratios to divide one root;"
                f" found {_some(_subfolders(listing, base))}"
            )
        return _divided_layout(listing, base)
    if divided and _has_class_folders(listing, base):
        raise UserError(f"split_ratios divides one undivided root, but {listing.where} has train and test folders")
    grouped = _group(listing, base)
    classes, labels, rows = _flatten(grouped)
    parts = divide(labels, ratios, seed, listing.where, classes)
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
    return {name for name in inside | named if name and not holds_no_data(name)}


def _has_class_folders(listing: Listing, base: str) -> bool:
    """Tell split folders from classes that bear their names (CIFAR-100 has a class 'train')."""
    train = [folder for folder, split in _split_folders(listing, base).items() if split == "train"]
    return any(_subfolders(listing, f"{base}{folder}/") for folder in train)


def _split_folders(listing: Listing, base: str) -> dict[str, str]:
    """Return the folders that bear the name of a split, in whatever case, with what they mean."""
    named = {folder: SPLIT_FOLDERS.get(folder.lower()) for folder in sorted(_subfolders(listing, base))}
    return {folder: split for folder, split in named.items() if split is not None}


def _divided_layout(listing: Listing, base: str) -> Layout:
    folders: dict[str, str] = {}
    for name, split in _split_folders(listing, base).items():
        if split in folders:
            raise UserError(f"{listing.where} has both {folders[split]} and {name}, which mean the same")
        folders[split] = name
    if "test" not in folders:
        folders["test"] = folders.pop("val")
    classes: list[str] = []
    labels, rows = {}, {}
    for split in ("train", "val", "test"):
        if split in folders:
            found, labels[split], rows[split] = _flatten(_group(listing, f"{base}{folders[split]}/"))
            classes = classes or found
            _check_same_classes(listing.where, folders["train"], classes, folders[split], found)
    return Layout(classes, labels, rows)


def _check_same_classes(where: str, train: str, classes: list[str], folder: str, found: list[str]) -> None:
    if classes == found:
        return
    only = sorted(set(classes) ^ set(found))[0]
    place, other, others = (train, folder, found) if only in classes else (folder, train, classes)
    alike = [name for name in others if _alike(name) == _alike(only) and name not in set(classes) & set(found)]
    hint = f"; {other} has '{printable(alike[0])}', which only looks the same" if alike else ""
    raise UserError(
        f"{where}: {train} and {folder} have different classes: '{printable(only)}' is only in {place}{hint}"
    )


def _alike(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _group(listing: Listing, base: str) -> dict[str, list[int]]:
    """Return the images below each class folder, sorted by name."""
    _check_once(listing, base)
    grouped: dict[str, list[int]] = {name: [] for name in sorted(_subfolders(listing, base))}
    loose = 0
    for row, name in enumerate(listing.names):
        if name.startswith(base):
            folder, inside, _ = name[len(base) :].partition("/")
            loose += not inside
            if inside and folder in grouped:
                grouped[folder].append(row)
    if not grouped:
        place = f"{listing.where}: {base.rstrip('/')}" if base else listing.where
        holds = f"holds {loose} images but no class folders: nothing tells their classes" if loose else "is empty"
        raise UserError(f"{place} {holds}; put each class's images into a folder of its name")
    _check_told_apart(listing.where, base, grouped)
    for folder, rows in grouped.items():
        if not rows:
            where = f"{listing.where}: class folder {base}{printable(folder)}"
            raise UserError(f"{where} holds no images; {_found(listing)}")
        rows.sort(key=listing.names.__getitem__)
        for row, following in itertools.pairwise(rows):
            if listing.names[row] == listing.names[following]:
                raise UserError(f"{listing.where}: {printable(listing.names[row])} is there twice")
    return grouped


def _check_told_apart(where: str, base: str, folders: Iterable[str]) -> None:
    """Refuse two spellings of one name: an accent may be part of its letter or follow it, as macOS writes it."""
    spelt: dict[str, str] = {}
    for name in folders:
        if (first := spelt.setdefault(unicodedata.normalize("NFC", name), name)) != name:
            raise UserError(
                f"{where}: {base}{printable(name)} is there twice, in two spellings of Unicode ({first!a} and"
                f" {name!a}): put the images of one class into one folder"
            )


def _check_once(listing: Listing, base: str) -> None:
    for place, first in listing.again.items():
        if f"{place}/".startswith(base):
            raise UserError(
                f"{listing.where}: {printable(place)} is a link to the same folder as {printable(first or 'the root')},"
                " whose images would count twice: remove one of the two"
            )


def _found(listing: Listing) -> str:
    """Say what there is beside images."""
    kinds = [f"{count} {printable(kind)}" for kind, count in listing.passed_over().items()]
    return f"passed over: {', '.join(kinds)}" if kinds else "no other files are there"


def _flatten(grouped: dict[str, list[int]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    sizes = [len(rows) for rows in grouped.values()]
    labels = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    rows = np.fromiter((row for rows in grouped.values() for row in rows), np.int64, sum(sizes))
    return list(grouped), labels, rows


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return (", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")) or "no folders"

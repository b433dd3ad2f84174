"""What lies on disk of a data set: a digest of its files' names, sizes and times, and about how many images train.

No file is opened but a class list, so a million images take seconds. What this cannot see is a file whose content
changed while its size and its time of modification, to the nanosecond, stayed the same.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from kd.formats.cifar import CIFARS, find_form
from kd.formats.class_lists import listed_classes
from kd.formats.trees import Visit, suffix_of, walk
from kd.schema.config import DatasetSettings
from kd.tools.errors import UserError

IMAGENET32_FILES = (*(f"train_data_batch_{k}" for k in range(1, 11)), "val_data", "map_clsloc.txt")

SMALLEST_IMAGE = {".tar": 1024}
"""Bytes that an image takes in an archive at least: in a tar a header and a block, else what is left of both."""
SMALLEST_PACKED = 250


@dataclass(frozen=True)
class Contents:
    """What of a data set is there."""

    digest: str | None
    """Of all that packing would read; None where nothing is there, or is fetched and checked when it is packed."""
    train_images: int | None
    """About how many training images; at most so many for archives; None where the source fixes or knows it."""


def contents_of(settings: DatasetSettings) -> Contents:
    """Look at the files that packing these settings would read; whatever is not there or vanishes raises nothing."""
    if settings.source == "digits":
        return Contents(None, None)
    if settings.archives:
        return _archives(settings)
    assert settings.root is not None
    root = Path(settings.root)
    if settings.source == "imagefolder":
        return _tree(settings, root, [""], [])
    if settings.source == "imagenet100":
        return _listed_classes(settings, root)
    if settings.source in CIFARS:
        return _cifar(settings, root)
    found = [_file(root / name, name) for name in IMAGENET32_FILES]
    return Contents(_digest(found) if any(found) else None, None)


def _archives(settings: DatasetSettings) -> Contents:
    found = [_file(Path(path), path) for path in settings.archives]
    if None in found:
        return Contents(None, None)
    images = sum(
        os.path.getsize(path) // SMALLEST_IMAGE.get(suffix_of(path), SMALLEST_PACKED) for path in settings.archives
    )
    return Contents(_digest(sorted(filter(None, found))), _share_of(settings, images))


def _cifar(settings: DatasetSettings, root: Path) -> Contents:
    """Look at the form that is there; what was fetched counts as what is yet to be fetched: its checksums are known."""
    try:
        form = find_form(CIFARS[settings.source], root)
    except UserError:
        return Contents(None, None)
    if form is None or (form.official and settings.download):
        return Contents(None, None)
    if form.kind == "class folders":
        return replace(_tree(settings, root, [""], []), train_images=None)
    return Contents(_digest(_file(path, path.name) for path in form.paths), None)


def _listed_classes(settings: DatasetSettings, root: Path) -> Contents:
    assert settings.class_list is not None
    try:
        names = listed_classes(settings.class_list)
    except UserError:
        return Contents(None, None)
    below = [f"{split}/{name}" for split in ("train", "val") for name in dict.fromkeys(names)]
    return _tree(settings, root, below, [_file(Path(settings.class_list), "class_list")])


def _tree(settings: DatasetSettings, root: Path, below: Iterable[str], lines: list[str | None]) -> Contents:
    images = 0
    train: dict[int, int] = {}  # pictures below folders named train, by depth of that folder
    for visit in walk(root, below):
        lines.append(_visited(visit))
        images += len(visit.pictures)
        parts = visit.inside.lower().split("/")
        if "train" in parts:
            depth = parts.index("train")
            train[depth] = train.get(depth, 0) + len(visit.pictures)
    if not images:
        return Contents(None, None)
    # The train folder is the outermost; deeper ones are classes of that name.
    counted = _share_of(settings, images) if settings.split_ratios or not train else train[min(train)]
    return Contents(_digest(lines), max(1, counted))


def _share_of(settings: DatasetSettings, images: int) -> int:
    share = settings.split_ratios.train if settings.split_ratios else 1.0
    return max(1, round(images * share))


def _visited(visit: Visit) -> str:
    """Return the line of one folder: its place, subfolders, and each picture with size and time."""
    parts = [visit.inside, *visit.folders, f"again {visit.again}", f"error {visit.error and visit.error.errno}"]
    for entry in visit.pictures:
        try:
            state = entry.stat()
            parts.append(f"{entry.name}/{state.st_size}/{state.st_mtime_ns}")
        except OSError:  # a link that leads nowhere, or a file that is gone by now
            parts.append(f"{entry.name}/gone")
    return "\0".join(parts)


def _file(path: Path, name: str) -> str | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return f"{name}/{state.st_size}/{state.st_mtime_ns}"


def _digest(lines: Iterable[str | None]) -> str:
    found = hashlib.sha256()
    for line in lines:
        if line is not None:
            found.update(line.encode("utf-8", "surrogateescape") + b"\0\0")
    return found.hexdigest()[:16]

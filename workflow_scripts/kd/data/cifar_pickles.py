"""What the CIFAR sources share: fetching what is not there, reading batches and the other forms of the data set."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from kd.data.archives import list_archives, members
from kd.data.folder_tree import find_layout, list_folder, tree_source
from kd.data.source import Block, Source, array_blocks
from kd.data.unpickle import load_pickle
from kd.formats.cifar import Cifar, Form, find_form, nothing_usable
from kd.schema.config import DatasetSettings
from kd.tools.errors import UserError, printable

LARGEST_LABEL = 99_999
UNFINISHED = ".download-"
SILENCE = 60.0
"""Seconds without an answer after which a download has failed."""

Load = Callable[[str], Any]
"""Returns the content of the batch of a name."""


def open_cifar(cifar: Cifar, settings: DatasetSettings) -> Source:
    """Open a CIFAR data set in whichever form `root` holds it; classes and images are in order of their names."""
    assert settings.root is not None
    root = Path(settings.root)
    form = find_form(cifar, root)
    if settings.download and not _usable(cifar, form):
        form = _fetched(cifar, root)
    if form is None:
        raise nothing_usable(cifar, root)
    if form.kind in ("class folders", "class archives"):
        listing = list_folder(root) if form.kind == "class folders" else list_archives(list(form.paths))
        return tree_source(listing, find_layout(listing, None, 0))
    if form.official:
        _check_sums(cifar, form)
    if form.kind == "archive":
        return _batches(cifar, form.paths[0], _loaded_from(cifar, form.paths[0]))
    folder = form.paths[0].parent
    return _batches(cifar, folder, lambda name: load_pickle(folder / name))


def _usable(cifar: Cifar, form: Form | None) -> bool:
    """Tell whether there is anything; an archive of another size than the official one may be cut short."""
    if form is None or form.kind != "archive" or form.official:
        return form is not None
    try:
        _unpacked(cifar, form.paths[0])
    except UserError:
        return False
    return True


def _fetched(cifar: Cifar, root: Path) -> Form | None:
    """Download the official archive into `root`; other jobs that want it there meanwhile wait for it.

    It comes under its name when it is whole and its checksum is right, and is read as it is.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    known = getattr(datasets, cifar.dataset)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root):
            form = find_form(cifar, root)
            if not _usable(cifar, form):
                for left in root.glob(f"{UNFINISHED}*"):  # by a job that was killed
                    shutil.rmtree(left, ignore_errors=True)
                with TemporaryDirectory(prefix=UNFINISHED, dir=root) as folder, _no_endless_wait():
                    download_url(known.url, folder, cifar.archive, known.tgz_md5)
                    os.replace(Path(folder) / cifar.archive, root / cifar.archive)
                form = find_form(cifar, root)
            return form
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download {cifar.dataset} into {root}: {error}; {known.url} may be put there by hand,"
            " or archives or folders of its classes"
        ) from error


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    descriptor = os.open(root, os.O_RDONLY)  # the folder itself is locked: no file is left behind
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _no_endless_wait() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _check_sums(cifar: Cifar, form: Form) -> None:
    """Compare what has the official size with the official checksums: pickles have none of their own."""
    from torchvision import datasets

    known = getattr(datasets, cifar.dataset)
    sums = {cifar.archive: known.tgz_md5, **dict([*known.train_list, *known.test_list])}
    for path in form.paths:
        if path.name in sums and _md5(path) != sums[path.name]:
            raise UserError(f"{path} is damaged: its MD5 sum is not {sums[path.name]}; delete it and fetch it again")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpacked(cifar: Cifar, archive: Path) -> dict[str, bytes]:
    """Return the official files by name as an archive holds them."""
    wanted = {f"{cifar.folder}/{name}": name for name in cifar.files}
    found = {
        wanted[member.name]: member.data
        for member in members(archive, wanted.__contains__)
        if member.name in wanted and member.kind == "file"
    }
    missing = [name for name in cifar.files if name not in found]
    if missing:
        raise UserError(f"archive {archive} lacks {cifar.folder}/{missing[0]}")
    return found


def _loaded_from(cifar: Cifar, archive: Path) -> Load:
    files = _unpacked(cifar, archive)
    return lambda name: load_pickle(archive / cifar.folder / name, files[name])


def _batches(cifar: Cifar, where: Path, load: Load) -> Source:
    """Return the source of the official batches."""
    names = _class_names(cifar, where, load)
    classes = sorted(names)
    rank = np.array([classes.index(name) for name in names], np.int64)
    labels, positions = {}, {}
    for split, files in cifar.splits.items():
        given, titles = _labels_and_titles(cifar, where, files, load, len(names))
        ranks = rank[given]
        order = np.lexsort((titles, ranks))
        labels[split] = ranks[order]
        positions[split] = np.argsort(order)

    def blocks() -> Iterator[Block]:
        """Read the batches in the order of their files, and send each image to its place."""
        for split, files in cifar.splits.items():
            parts = ((str(where / file), _pixels(where / file, load(file))) for file in files)
            for block in array_blocks(split, parts):
                yield replace(block, positions=positions[split][block.positions])

    return Source(classes, labels, blocks, encoded=False)


def _class_names(cifar: Cifar, where: Path, load: Load) -> list[str]:
    [names] = _contents(where / cifar.meta, load(cifar.meta), cifar.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise UserError(f"{where / cifar.meta}: {cifar.names_key} is no list of names")
    listed = [name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name for name in names]
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        raise UserError(f"{where / cifar.meta} names class {twice[0]} twice")
    return listed


def _labels_and_titles(
    cifar: Cifar, where: Path, files: tuple[str, ...], load: Load, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a split as its files have them, and what orders the images of one class: their names.

    Batches without names of images keep their order.
    """
    labels, titles, named = [], [], True
    for file in files:
        content = load(file)
        [given] = _contents(where / file, content, cifar.labels_key)
        labels.append(checked_labels(given, len(_pixels(where / file, content)), where / file))
        if labels[-1].max() >= classes:
            raise UserError(
                f"{where / file}: label {labels[-1].max()} lies outside the {classes} classes that are named"
            )
        names = content.get("filenames")
        named = named and isinstance(names, list) and len(names) == len(labels[-1])
        titles += [str(name) for name in names] if named else []
    found = np.concatenate(labels)
    return found, np.array(titles) if named else np.arange(len(found))


def checked_labels(given: Any, images: int, path: Path, first: int = 0) -> np.ndarray:
    """Return labels (images,) int64; UserError unless they are one integer from `first` for each of the images."""
    if not isinstance(given, list | tuple | np.ndarray) or (isinstance(given, np.ndarray) and given.ndim == 0):
        raise UserError(f"{path}: labels must be a list of integers, found {type(given).__name__}")
    if len(given) != images or not images:
        raise UserError(f"{path} holds {images} images and {len(given)} labels, one for each is needed")
    for place, label in enumerate(given):
        # numpy would take True for 1, 2.7 for 2 and "3" for 3
        if not isinstance(label, int | np.integer) or isinstance(label, bool):
            shown = printable(repr(label))
            raise UserError(f"{path}: label {place} is {shown[:40]} ({type(label).__name__}), no integer")
        if not first <= label <= LARGEST_LABEL:
            raise UserError(f"{path}: labels must count from {first}, found {str(label)[:40]}")
    return np.array(given, dtype=np.int64)


def _contents(path: Path, content: Any, *keys: str) -> list[Any]:
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise UserError(f"{path} is not a CIFAR batch: it must hold {' and '.join(keys)}")
    return [content[key] for key in keys]


def _pixels(path: Path, content: Any) -> np.ndarray:
    return planes_to_pixels(_contents(path, content, "data")[0], path)


def planes_to_pixels(data: Any, path: Path) -> np.ndarray:
    """View rows of colour planes (N, 3 S^2), red before green before blue, as pixels (N, S, S, 3)."""
    rows = data if isinstance(data, np.ndarray) else np.zeros(0)
    side = round((rows.shape[-1] / 3) ** 0.5) if rows.ndim == 2 else 0
    if rows.dtype != np.uint8 or not side or rows.shape[1] != 3 * side * side:
        found = f"{rows.dtype} {rows.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise UserError(f"{path} holds data {found}, expected uint8 (images, 3 x side x side)")
    return rows.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)

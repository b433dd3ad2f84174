"""Pack a data source once into uint8 arrays that every later job maps into memory."""

import concurrent.futures
import contextlib
import hashlib
import itertools
import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kd.data.colours import DEEP
from kd.data.decoding import Target, Written, close_targets, decode, fit, write_block
from kd.data.source import Block, Source, open_source
from kd.schema.config import DatasetSettings
from kd.study.made import MANIFEST
from kd.tools.disk import disk_trouble
from kd.tools.errors import UserError, printable
from kd.tools.files import staging_name, sync, whole_crc32, write_json

TOLD = 20
"""Images that cannot be used are told by name up to here."""
MOST_BROKEN = 1000
"""After so many the rest is not read: something is wrong with all of them."""
DARK = 16
"""Highest value of 0 to 255 under which images of 16 bits have lost too much by being brought to 8."""

log = logging.getLogger(__name__)


def pack(settings: DatasetSettings, folder: str | Path, workers: int, progress: bool) -> None:
    """Write `<split>_images.npy` (N, 3, S, S) uint8, `<split>_labels.npy` int64 and `manifest.json` into a folder.

    Everything is written beside the folder first and moved into it at the end, the manifest last: a folder with a
    manifest is whole. Images are in order of class, then name; the bytes of all files follow from the data and the
    settings alone, not from `workers`, place or time.
    Errors: UserError for whatever is wrong with the source, a full disk included.
    """
    started = time.monotonic()
    folder = Path(folder)
    try:
        source = open_source(settings)
        with _staging(folder) as staging:
            manifest = {"source": settings.source} | _write_arrays(
                source, staging, settings.image_size, workers, progress
            )
            write_json(staging / MANIFEST, manifest)
            _publish(staging, folder)
        _tell(manifest, time.monotonic() - started)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(f"cannot pack {settings.source} into {folder}: {disk_trouble(error)}{where}") from error


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    staging = staging_name(folder)
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, folder: Path) -> None:
    """Move everything into the folder, the manifest last; each step is on the disk before the next one."""
    for file in staging.iterdir():
        sync(file)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    sync(folder)
    for stale in folder.glob("*_*.npy"):
        stale.unlink()
    for file in staging.glob("*.npy"):
        os.replace(file, folder / file.name)
    sync(folder)
    os.replace(staging / MANIFEST, folder / MANIFEST)
    sync(folder)
    sync(folder.parent)


@dataclass
class _Pass:
    """What a pass over all images of a source has found so far."""

    done: dict[str, int]
    histogram: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    """Of the training images."""
    broken: dict[tuple[str, int], str] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)
    sums: dict[str, set[int]] = field(default_factory=dict)

    def add(self, block: Block, written: Written) -> None:
        """Take in what is known of one more block."""
        self.done[block.split] += len(block.positions)
        self.broken |= {(block.split, position): why for position, why in written.broken.items()}
        self.remarks += written.remarks
        self.sums.setdefault(block.split, set()).update(written.sums)
        if block.split == "train":
            self.histogram += written.histogram


def _write_arrays(
    source: Source, staging: Path, image_size: int | None, workers: int, progress: bool
) -> dict[str, Any]:
    shape, blocks = _first_shape(source.blocks(), image_size)
    targets = {split: _create(staging, split, labels, shape) for split, labels in source.labels.items()}
    total = sum(len(labels) for labels in source.labels.values())
    try:
        # disable=None: the bar hides where standard error is no terminal
        with tqdm(total=total, desc="packing", unit="img", disable=None if progress else True) as bar:
            found = _decode(blocks, targets, image_size, workers if source.encoded else 1, bar)
    finally:
        close_targets()
    _check_found(found, {split: len(labels) for split, labels in source.labels.items()})
    mean, std = _moments(found.histogram)
    files = [f"{split}_{kind}.npy" for split in source.labels for kind in ("images", "labels")]
    return {
        "classes": source.classes,
        "counts": {split: _counts(source.classes, labels) for split, labels in source.labels.items()},
        "passed_over": dict(source.passed_over),
        "remarks": {kind: found.remarks[kind] for kind in sorted(found.remarks)},
        "shape": list(shape),
        "mean": mean,
        "std": std,
        "digests": {file: _digest(staging / file) for file in files},
        "checksums": {file: whole_crc32(staging / file) for file in files},
    }


def _first_shape(blocks: Iterator[Block], image_size: int | None) -> tuple[tuple[int, int, int], Iterator[Block]]:
    """Return the shape that every image must have, and all blocks: that of the first image that can be read."""
    if image_size is not None:
        return (3, image_size, image_size), blocks
    first = next(blocks)
    broken = []
    for image, name in zip(first.images, first.names, strict=True):
        try:
            channels, height, width = fit(decode(image, name), None, name).shape
        except UserError as error:
            broken.append(str(error))
        else:
            return (channels, height, width), itertools.chain([first], blocks)
    raise _cannot_use(broken)


def _cannot_use(reasons: list[str]) -> UserError:
    """Return the error that tells of the images that cannot be used, the first of many by name."""
    if len(reasons) == 1:
        return UserError(reasons[0])
    count = str(len(reasons)) if len(reasons) < MOST_BROKEN else f"at least {MOST_BROKEN}"
    more = "; and more" if len(reasons) > TOLD else ""
    return UserError(f"{count} images cannot be used: {'; '.join(reasons[:TOLD])}{more}")


def _check_found(found: _Pass, counts: Mapping[str, int]) -> None:
    """Raise UserError for images that cannot be used, and for data of which nothing can be learnt."""
    if found.broken:
        splits = list(counts)
        order = sorted(found.broken, key=lambda place: (splits.index(place[0]), place[1]))
        raise _cannot_use([found.broken[place] for place in order])
    for split, rows in counts.items():
        if found.done[split] != rows:
            raise UserError(
                f"the data changed while they were read: {rows} {split} images listed, {found.done[split]} found"
            )
    values = np.flatnonzero(found.histogram.sum(axis=0))
    if len(values) == 1:
        raise UserError(f"every pixel of the training images is {values[0]} of 255: there is nothing to learn")
    for split, sums in found.sums.items():
        if len(sums) == 1 and counts[split] > 1:
            raise UserError(f"all {counts[split]} {split} images are the same picture: there is nothing to learn")
    if found.remarks[DEEP] == sum(counts.values()) and values[-1] <= DARK:
        raise UserError(
            f"the images have 16 bits a channel but use only the lowest {values[-1] + 0.5:g}/255 of that range:"
            " scale them to 8 bits by the range that they do use"
        )


def _tell(manifest: Mapping[str, Any], seconds: float) -> None:
    """Log what was packed, and what was passed over or read in a way of its own."""
    counts = {split: count["images"] for split, count in manifest["counts"].items()}
    images = ", ".join(f"{count} {split}" for split, count in counts.items())
    names = [printable(name) for name in manifest["classes"]]
    shown = ", ".join(names if len(names) <= TOLD else [*names[:TOLD], "..."])
    log.info("packed %s images of %d classes (labels in this order: %s) in %.1f s", images, len(names), shown, seconds)
    if manifest["passed_over"]:
        kinds = ", ".join(f"{count} {printable(kind)}" for kind, count in manifest["passed_over"].items())
        log.warning("passed over, as no pictures of a class: %s", kinds)
    for kind, count in manifest["remarks"].items():
        log.warning("%d images %s", count, kind)


def _create(staging: Path, split: str, labels: np.ndarray, shape: tuple[int, int, int]) -> Target:
    np.save(staging / f"{split}_labels.npy", labels.astype(np.int64))
    path = staging / f"{split}_images.npy"
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(labels), *shape))
    return Target(path, images.offset, shape)


def _decode(
    blocks: Iterator[Block], targets: dict[str, Target], image_size: int | None, workers: int, bar: tqdm
) -> _Pass:
    """Write all blocks; stops early where nothing but images that cannot be used is to be expected."""
    found = _Pass(dict.fromkeys(targets, 0))
    run = _in_this_process if workers <= 1 else _in_processes
    for block, written in run(blocks, targets, image_size, workers):
        found.add(block, written)
        bar.update(len(block.positions))
        if len(found.broken) >= MOST_BROKEN:
            break
    return found


def _in_this_process(
    blocks: Iterator[Block], targets: dict[str, Target], image_size: int | None, _workers: int
) -> Iterator[tuple[Block, Written]]:
    for block in blocks:
        yield block, write_block(block, targets[block.split], image_size)


def _in_processes(
    blocks: Iterator[Block], targets: dict[str, Target], image_size: int | None, workers: int
) -> Iterator[tuple[Block, Written]]:
    """Decode in several processes, with few blocks under way so that memory does not grow with the data set."""
    pending: dict[concurrent.futures.Future, Block] = {}
    with _hidden_main(), _pool(workers) as pool:
        try:
            for block in blocks:
                pending[pool.submit(write_block, block, targets[block.split], image_size)] = block
                if len(pending) >= 2 * workers:
                    yield from _finished(pending)
            while pending:
                yield from _finished(pending)
        except concurrent.futures.BrokenExecutor as error:
            raise UserError(f"a decoding process was killed, perhaps for lack of memory: {error}") from error
        finally:
            for future in pending:
                future.cancel()


def _finished(pending: dict[concurrent.futures.Future, Block]) -> Iterator[tuple[Block, Written]]:
    done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
        yield pending.pop(future), future.result()


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    # spawn, not fork: the caller may have threads (torch, BLAS), whose locks a fork would copy in any state
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep spawned processes from importing the calling script, which a workflow script need not survive."""
    main = sys.modules["__main__"]
    kept = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    try:
        main.__spec__ = None
        yield
    finally:
        main.__dict__.update(kept)


def _moments(histogram: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and population standard deviation of each channel in 0..1 from the counts of its values."""
    values = np.arange(256) / 255
    mean = histogram @ values / histogram.sum(axis=1)
    variance = (histogram * (values - mean[:, None]) ** 2).sum(axis=1) / histogram.sum(axis=1)
    return [round(float(m), 6) for m in mean], [round(float(s), 6) for s in np.sqrt(variance)]


def _counts(classes: list[str], labels: np.ndarray) -> dict[str, Any]:
    per_class = np.bincount(labels, minlength=len(classes)).tolist()
    return {"images": len(labels), "per_class": dict(zip(classes, per_class, strict=True))}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

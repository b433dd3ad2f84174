"""Pack a data source once into uint8 arrays that every later job maps into memory."""

import concurrent.futures
import contextlib
import hashlib
import itertools
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kd.data.decoding import Target, close_targets, decode, fit, write_block
from kd.data.source import Block, Source, open_source
from kd.spec.config import DatasetSettings
from kd.spec.disk import disk_trouble
from kd.spec.errors import UserError
from kd.spec.files import staging_name, sync, whole_crc32, write_json

MANIFEST = "manifest.json"


def pack(settings: DatasetSettings, folder: str | Path, workers: int, progress: bool) -> None:
    """Write `<split>_images.npy` (N, 3, S, S) uint8, `<split>_labels.npy` int64 and `manifest.json` into a folder.

    Everything is written beside the folder first and moved into it at the end, the manifest last: a folder with a
    manifest is whole. Images are in order of class, then name; the result does not depend on `workers`.
    Errors: UserError for whatever is wrong with the source, a full disk included.
    """
    folder = Path(folder)
    try:
        source = open_source(settings)
        with _staging(folder) as staging:
            manifest = {"source": settings.source} | _write_arrays(
                source, staging, settings.image_size, workers, progress
            )
            write_json(staging / MANIFEST, manifest)
            _publish(staging, folder)
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


def _write_arrays(
    source: Source, staging: Path, image_size: int | None, workers: int, progress: bool
) -> dict[str, Any]:
    shape, blocks = _first_shape(source.blocks(), image_size)
    targets = {split: _create(staging, split, labels, shape) for split, labels in source.labels.items()}
    total = sum(len(labels) for labels in source.labels.values())
    try:
        # disable=None: the bar hides where standard error is no terminal
        with tqdm(total=total, desc="packing", unit="img", disable=None if progress else True) as bar:
            histogram = _decode(blocks, targets, image_size, workers if source.encoded else 1, bar)
    finally:
        close_targets()
    mean, std = _moments(histogram)
    files = [f"{split}_{kind}.npy" for split in source.labels for kind in ("images", "labels")]
    return {
        "classes": source.classes,
        "counts": {split: _counts(source.classes, labels) for split, labels in source.labels.items()},
        "shape": list(shape),
        "mean": mean,
        "std": std,
        "digests": {file: _digest(staging / file) for file in files},
        "checksums": {file: whole_crc32(staging / file) for file in files},
    }


def _first_shape(blocks: Iterator[Block], image_size: int | None) -> tuple[tuple[int, int, int], Iterator[Block]]:
    """Return the shape that every image must have, and the blocks with the first one put back."""
    first = next(blocks)
    name = first.names[0]
    channels, height, width = fit(decode(first.images[0], name), image_size, name).shape
    return (channels, height, width), itertools.chain([first], blocks)


def _create(staging: Path, split: str, labels: np.ndarray, shape: tuple[int, int, int]) -> Target:
    np.save(staging / f"{split}_labels.npy", labels.astype(np.int64))
    path = staging / f"{split}_images.npy"
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(labels), *shape))
    return Target(path, images.offset, shape)


def _decode(
    blocks: Iterator[Block], targets: dict[str, Target], image_size: int | None, workers: int, bar: tqdm
) -> np.ndarray:
    """Write all blocks and return the histogram of the training images."""
    done = dict.fromkeys(targets, 0)
    histogram = np.zeros((3, 256), np.int64)
    run = _in_this_process if workers <= 1 else _in_processes
    for block, counted in run(blocks, targets, image_size, workers):
        done[block.split] += len(block.positions)
        bar.update(len(block.positions))
        if block.split == "train":
            histogram += counted
    for split, target in targets.items():
        rows = (target.path.stat().st_size - target.offset) // int(np.prod(target.shape))
        if done[split] != rows:
            raise UserError(f"the data changed while they were read: {rows} {split} images listed, {done[split]} found")
    return histogram


def _in_this_process(
    blocks: Iterator[Block], targets: dict[str, Target], image_size: int | None, _workers: int
) -> Iterator[tuple[Block, np.ndarray]]:
    for block in blocks:
        yield block, write_block(block, targets[block.split], image_size)


def _in_processes(
    blocks: Iterator[Block], targets: dict[str, Target], image_size: int | None, workers: int
) -> Iterator[tuple[Block, np.ndarray]]:
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


def _finished(pending: dict[concurrent.futures.Future, Block]) -> Iterator[tuple[Block, np.ndarray]]:
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

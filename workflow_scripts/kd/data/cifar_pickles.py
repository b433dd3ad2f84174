"""What the CIFAR sources share: where the files are, downloading them, reading their batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd.data.source import Block, Source, array_blocks
from kd.data.unpickle import load_pickle
from kd.spec.config import DatasetSettings
from kd.spec.errors import UserError


@dataclass(frozen=True)
class Layout:
    """File names and keys of one CIFAR data set."""

    dataset: str
    """The class in torchvision.datasets that knows address and checksums."""
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    names_key: str
    labels_key: str

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """File names of each split."""
        return {"train": self.train, "test": self.test}


def open_cifar(layout: Layout, settings: DatasetSettings) -> Source:
    """Open a CIFAR data set in `root` (the folder that holds the official folder, or that folder itself)."""
    assert settings.root is not None
    root = Path(settings.root)
    if settings.download:
        _download(layout, root)
    folder = _locate(layout, root)
    names = load_pickle(folder / layout.meta).get(layout.names_key, [])
    labels = {
        split: np.concatenate([_labels(folder / file, layout.labels_key) for file in files])
        for split, files in layout.splits.items()
    }

    def blocks() -> Iterator[Block]:
        for split, files in layout.splits.items():
            yield from array_blocks(split, ((str(folder / file), _pixels(folder / file)) for file in files))

    return Source([name.decode() if isinstance(name, bytes) else name for name in names], labels, blocks, encoded=False)


def _locate(layout: Layout, root: Path) -> Path:
    wanted = (*layout.train, *layout.test, layout.meta)
    if not root.is_dir():
        raise UserError(f"root {root} is not a folder: set download to true or give the folder of {layout.folder}")
    folder = root / layout.folder if (root / layout.folder).is_dir() else root
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {missing[0]}, a file of {layout.folder}: set download to true or correct root")
    return folder


def _download(layout: Layout, root: Path) -> None:
    """Fetch the official archive unless every file is there with its checksum; torchvision does not unpickle here."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    known = getattr(datasets, layout.dataset)
    files = [*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])]
    if all(check_integrity(root / layout.folder / name, md5) for name, md5 in files):
        return
    try:
        download_and_extract_archive(known.url, root, filename=known.filename, md5=known.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot download {layout.dataset} into {root}: {error}") from error


def _batch(path: Path, *keys: str) -> list[Any]:
    content = load_pickle(path)
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise UserError(f"{path} is not a CIFAR batch: it must hold {' and '.join(keys)}")
    return [content[key] for key in keys]


def _labels(path: Path, key: str) -> np.ndarray:
    return np.asarray(_batch(path, key)[0], dtype=np.int64)


def _pixels(path: Path) -> np.ndarray:
    return planes_to_pixels(_batch(path, "data")[0], path)


def planes_to_pixels(data: Any, path: Path) -> np.ndarray:
    """View rows of colour planes (N, 3 S^2), red before green before blue, as pixels (N, S, S, 3)."""
    rows = np.asarray(data)
    side = round((rows.shape[-1] / 3) ** 0.5) if rows.ndim == 2 else 0
    if rows.dtype != np.uint8 or not side or rows.shape[1] != 3 * side * side:
        raise UserError(f"{path} holds data {rows.dtype} {rows.shape}, expected uint8 (images, 3 x side x side)")
    return rows.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)

"""Small data sets for the tests of kd.data."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from kd.formats.cifar import CIFARS


def write_image(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    pixels[0, 0] = 255 - value
    Image.fromarray(pixels).save(path)


def write_tree(root: Path, splits=("train", "test"), classes=("ant", "bee", "cat"), count=4, size=(8, 8)) -> Path:
    """A tree root/<split>/<class>/<k>.png; with splits ("",) one undivided root."""
    value = 0
    for split in splits:
        for name in classes:
            for k in range(count):
                write_image(root / split / name / f"{k}.png", value % 256, size)
                value += 5
    return root


def write_cifar(
    root: Path, protocol: int = 2, count: int = 20, source: str = "cifar100", names=None, titles=True
) -> Path:
    """Small files with the names and keys of the official ones: labels in turn, names of images in no order."""
    cifar = CIFARS[source]
    folder = root / cifar.folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = names or ["ant", "bee", "cat", "dog"]
    (folder / cifar.meta).write_bytes(pickle.dumps({cifar.names_key: names}, protocol))
    for file in (*cifar.train, *cifar.test):
        batch = {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            cifar.labels_key: [k % len(names) for k in range(count)],
        }
        if titles:
            batch["filenames"] = [f"{file}_{k:04}.png".encode() for k in rng.permutation(count)]
        (folder / file).write_bytes(pickle.dumps(batch, protocol))
    return root


def write_cifar_classes(official: Path, root: Path, source: str = "cifar100") -> Path:
    """The class folders of official files."""
    cifar = CIFARS[source]
    folder = official / cifar.folder
    names = pickle.loads((folder / cifar.meta).read_bytes())[cifar.names_key]
    for split, files in cifar.splits.items():
        for file in files:
            batch = pickle.loads((folder / file).read_bytes())
            for planes, label, title in zip(batch["data"], batch[cifar.labels_key], batch["filenames"], strict=True):
                path = root / split / names[label] / title.decode()
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(planes.reshape(3, 32, 32).transpose(1, 2, 0)).save(path)
    return root


def archive_of(root: Path, path: Path, keep=lambda name: True, top: str = "") -> Path:
    """Write the files below a root, and its folders, as an archive of the kind its suffix says, at one fixed time."""
    entries = [entry for entry in sorted(root.rglob("*")) if entry.is_dir() or keep(str(entry))]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for entry in entries:
                slash = "/" if entry.is_dir() else ""
                info = zipfile.ZipInfo(f"{top}{entry.relative_to(root).as_posix()}{slash}")
                info.external_attr = entry.stat().st_mode << 16
                archive.writestr(info, b"" if slash else entry.read_bytes(), zipfile.ZIP_DEFLATED)
    else:
        path.write_bytes(packed_as(path.name, tar_of(root, entries, top)))
    return path


def tar_of(root: Path, entries: Iterable[Path], top: str = "") -> bytes:
    """A tar whose members have one fixed time and owner."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries:
            member = archive.gettarinfo(entry, f"{top}{entry.relative_to(root).as_posix()}")
            member.mtime = member.uid = member.gid = 0
            member.uname = member.gname = ""
            archive.addfile(member, io.BytesIO(entry.read_bytes()) if member.isreg() else None)
    return buffer.getvalue()


def packed_as(name: str, data: bytes) -> bytes:
    """Compress as the suffix says; gzip would write the second into it."""
    if name.endswith((".gz", ".tgz")):
        return gzip.compress(data, mtime=0)
    if name.endswith((".bz2", ".tbz2")):
        return bz2.compress(data)
    return lzma.compress(data) if name.endswith((".xz", ".txz")) else data


def write_imagenet32(root: Path, count: int = 6, first_label: int = 1) -> Path:
    root.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in [*(f"train_data_batch_{k}" for k in range(1, 11)), "val_data"]:
        labels = [first_label + k % 3 for k in range(count)]
        batch = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "labels": labels}
        (root / name).write_bytes(pickle.dumps(batch))
    return root

"""Read trees of images out of .tar, .tar.gz and .zip files without unpacking them."""

import contextlib
import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from kd.data.folder_tree import Layout, Listing
from kd.data.source import BLOCK_IMAGES, Block
from kd.spec.errors import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
BLOCK_BYTES = 2 << 20  # encoded bytes under way to a decoding process at once
_TAR_BLOCK = 512
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


def list_archives(paths: list[Path]) -> Listing:
    """List what several archives hold together; each is read through once.

    Errors: UserError for an archive that is missing, damaged, cut short or of another kind.
    """
    listing = Listing(", ".join(str(path) for path in paths))
    for path in paths:
        if not path.is_file():
            raise UserError(f"archives: {path} does not exist")
        if not path.name.endswith(SUFFIXES):
            raise UserError(f"archives: {path} is none of {', '.join(SUFFIXES)}")
        for name, data in _members(path, contents=False):
            listing.folders.add(name) if data is None else listing.add(name)
    listing.open_blocks = lambda layout: _archive_blocks(paths, listing.names, layout)
    return listing


def _archive_blocks(paths: list[Path], names: list[str], layout: Layout) -> Iterator[Block]:
    """Stream every archive once, from its beginning to its end, and send images where the layout wants them."""
    split_of = np.full(len(names), -1)
    position_of = np.zeros(len(names), np.int64)
    for number, rows in enumerate(layout.rows.values()):
        split_of[rows], position_of[rows] = number, np.arange(len(rows))
    row_of = {name: row for row, name in enumerate(names)}
    splits = list(layout.rows)
    under_way = 0
    gathered: dict[int, list[tuple[int, bytes, str]]] = {number: [] for number in range(len(splits))}
    for path in paths:
        for name, data in _members(path, contents=True):
            row = row_of.get(name)
            if row is None or split_of[row] < 0:
                continue
            assert data is not None
            waiting = gathered[int(split_of[row])]
            waiting.append((int(position_of[row]), data, f"{path}:{name}"))
            under_way += len(data)
            if len(waiting) >= BLOCK_IMAGES or under_way >= BLOCK_BYTES:
                yield _block(splits[int(split_of[row])], waiting)
                waiting.clear()
                under_way = 0
    for number, waiting in gathered.items():
        if waiting:
            yield _block(splits[number], waiting)


def _block(split: str, waiting: list[tuple[int, bytes, str]]) -> Block:
    positions, images, names = zip(*waiting, strict=True)
    return Block(split, np.array(positions), images, names)


def _members(path: Path, contents: bool) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and bytes of every file (empty bytes unless `contents`), and None for a folder."""
    read = _zip_members if path.suffix == ".zip" else _tar_members
    members = read(path, contents)
    while True:
        try:
            name, data = next(members)
        except StopIteration:
            return
        except _DAMAGED as error:
            raise UserError(f"archive {path} is damaged or cut short: {error}") from error
        yield _safe_name(name, path), data


def _safe_name(name: str, path: Path) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/"):
        raise UserError(f"archive {path} has a member outside its own tree: {name}")
    return "/".join(parts)


def _zip_members(path: Path, contents: bool) -> Iterator[tuple[str, bytes | None]]:
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
            if member.is_dir():
                yield member.filename, None
            else:
                yield member.filename, archive.read(member) if contents else b""


def _tar_members(path: Path, contents: bool) -> Iterator[tuple[str, bytes | None]]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        if path.suffix != ".tar":
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        stream = _Tail(file)
        archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r|"))  # type: ignore[call-overload]
        while (member := archive.next()) is not None:
            archive.members.clear()  # tarfile remembers every member, which a large archive has no memory for
            if member.isdir():
                yield member.name, None
            elif member.isreg():
                opened = archive.extractfile(member) if contents else None
                yield member.name, opened.read() if opened else b""
        stream.check_end()


class _Tail:
    """A stream that remembers its last block, since tarfile takes a file cut between two members for a whole one."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.last = b""

    def read(self, size: int) -> bytes:
        """Read on, as a file does."""
        data = self.file.read(size)
        self.last = (self.last + data)[-_TAR_BLOCK:] if len(data) < _TAR_BLOCK else data[-_TAR_BLOCK:]
        return data

    def check_end(self) -> None:
        """Read on to the end, which also checks gzip's sum, and demand the block of zeros that ends an archive."""
        while self.read(1 << 20):
            pass
        if any(self.last) or len(self.last) < _TAR_BLOCK:
            raise tarfile.ReadError("the end mark is missing")

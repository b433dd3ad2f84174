"""Read trees of images out of tar and zip archives without unpacking them.

An archive comes from anywhere: nothing it says about itself is believed further than the file goes, every loop here
moves on or stops, and what cannot be read as it was written is refused.
"""

import bz2
import errno
import gzip
import lzma
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np

from kd.data.folder_tree import Layout, Listing
from kd.data.source import BLOCK_IMAGES, Block
from kd.formats.cifar import ARCHIVE_SUFFIXES
from kd.formats.trees import CIRCLE, NO_FILE, NOWHERE, holds_no_data, suffix_of
from kd.tools.errors import UserError, printable

BLOCK_BYTES = 2 << 20  # encoded bytes under way to a decoding process at once
LARGEST_MEMBER = 1 << 30  # bytes; the largest picture that Pillow takes unasked has half of it as pixels
BOMB_RATIO, BOMB_BYTES = 200, 4 << 30  # no pictures, and hardly anything else, pack to a two-hundredth
_PADDING = 64 << 20  # zeros after the end mark fill a tar's last record, which tapes have up to some megabytes of
_TAR_BLOCK = 512
_CHUNK = 1 << 20
_LONGEST_HEADER = 16 << 20
_LONGEST_LINK = 4096
_UTF8_NAME = 0x800  # flag of a zip's member
_PIPES = {stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}

_TOLD = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)
"""Errors whose own words help; others (struct.error, UnicodeDecodeError, ...) only say that bytes are wrong."""


@dataclass(frozen=True)
class Member:
    """What an archive holds under one name."""

    name: str
    kind: Literal["file", "folder", "link", "pipe", "other"]
    """A pipe stands for sockets and devices too: it holds nothing. Of another kind may be files with holes."""
    data: bytes = b""
    """Content of a file, if it was wanted."""
    target: str = ""
    """Where a link leads, from the archive's top, which is '.'; '' for a place outside."""


def list_archives(paths: list[Path]) -> Listing:
    """List what several archives hold together; each is read through once.

    A hard or symbolic link to a file counts as a file of its own. Errors: UserError for an archive that is missing,
    damaged, cut short, encrypted, absurdly large once unpacked or of another kind, for pictures that are links to
    nowhere, and for links to folders that they do not lie in.
    """
    _check_paths(paths)
    listing = Listing(", ".join(str(path) for path in paths))
    files: set[str] = set()
    pipes: set[str] = set()
    links: dict[str, str] = {}
    for path in paths:
        for member in members(path, wanted=lambda name: False):
            if member.kind == "folder":
                listing.folders.add(member.name)
            elif member.kind == "link":
                links[member.name] = member.target
            elif member.kind == "file":
                listing.add(member.name)
                files.add(member.name)
            elif member.kind == "pipe":
                listing.pass_over(member.name, NO_FILE)
                pipes.add(member.name)
            else:
                _refuse_picture(listing, member.name, "a file with holes or of an unknown kind, not a plain file")
    also = _follow(links, files, pipes, listing)
    listing.open_blocks = lambda layout: _archive_blocks(paths, listing.names, also, layout)
    return listing


def _check_paths(paths: list[Path]) -> None:
    for path in paths:
        if not path.is_file():
            found = "is no file" if path.exists() else "does not exist"
            raise UserError(f"archives: {path} {found}")
        if not path.name.lower().endswith(ARCHIVE_SUFFIXES):
            raise UserError(f"archives: {path} is none of {', '.join(ARCHIVE_SUFFIXES)}")
    for place, path in enumerate(paths):
        if any(path.samefile(other) for other in paths[:place]):
            raise UserError(f"archives: {path} is listed twice")


def _follow(links: Mapping[str, str], files: set[str], pipes: set[str], listing: Listing) -> Mapping[str, list[str]]:
    """Add links to files as files of the listing; return for each file under which names it is there too."""
    also = defaultdict(list)
    folders = {place[:end] for place in files for end in _ends_of_folders(place)} | listing.folders if links else set()
    for name in links:
        target, passed = links[name], {name}
        while target in links and target not in passed:
            passed.add(target)
            target = links[target]
        if target in files:
            listing.add(name)
            also[target].append(name)
        elif target in pipes:
            listing.pass_over(name, NO_FILE)
        elif target == "." or name.startswith(f"{target}/"):
            listing.pass_over(name, CIRCLE)
        elif not target or target not in folders:
            _note_dead(listing, name)
        elif not any(map(holds_no_data, name.split("/"))):
            raise UserError(
                f"{listing.where}: {printable(name)} is a link to the folder {printable(target)}:"
                " put the files themselves there"
            )
    return also


def _note_dead(listing: Listing, name: str) -> None:
    """Count a link that leads nowhere, which may stand for a folder unless its name has a suffix."""
    last = name.rpartition("/")[2]
    if suffix_of(last) or holds_no_data(last):
        _refuse_picture(listing, name, "a link to a file that is not in the archives")
    else:
        listing.pass_over(name, NOWHERE)
        listing.folders.add(name)


def _ends_of_folders(name: str) -> Iterator[int]:
    return (place for place, letter in enumerate(name) if letter == "/")


def _refuse_picture(listing: Listing, name: str, what: str) -> None:
    """Raise UserError for a name that would be a picture's."""
    before = len(listing.names)
    listing.add(name)
    if len(listing.names) > before:
        raise UserError(f"{listing.where}: {printable(name)} is {what}")


def _archive_blocks(
    paths: list[Path], names: list[str], also: Mapping[str, list[str]], layout: Layout
) -> Iterator[Block]:
    """Stream every archive once, from its beginning to its end, and send images where the layout wants them."""
    split_of = np.full(len(names), -1)
    position_of = np.zeros(len(names), np.int64)
    for number, rows in enumerate(layout.rows.values()):
        split_of[rows], position_of[rows] = number, np.arange(len(rows))
    row_of = {name: row for row, name in enumerate(names) if split_of[row] >= 0}
    splits = list(layout.rows)
    under_way = 0
    gathered: dict[int, list[tuple[int, bytes, str]]] = {number: [] for number in range(len(splits))}

    def rows_of(name: str) -> list[int]:
        return [row_of[one] for one in (name, *also.get(name, ())) if one in row_of]

    for path in paths:
        for member in members(path, wanted=lambda name: bool(rows_of(name))):
            for row in rows_of(member.name) if member.kind == "file" else ():
                waiting = gathered[int(split_of[row])]
                waiting.append((int(position_of[row]), member.data, f"{path}:{names[row]}"))
                under_way += len(member.data)
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


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield what an archive holds, in the order of the file, with the content of the wanted files.

    The kind of archive is read from its first bytes: browsers unpack downloads without renaming them.
    Errors: UserError for whatever is wrong with the archive, at the latest when all members were yielded.
    """
    try:
        with path.open("rb") as file:
            head = file.read(6)
            file.seek(0)
            if head[:2] == b"PK" or path.name.lower().endswith(".zip"):
                yield from _zip_members(file, path, wanted)
            else:
                yield from _tar_members(_unpacked(file, head), path, wanted)
    except UserError:
        raise
    except OSError as error:
        # Damaged offsets and streams make errors without a number, or EINVAL; the others are the disk's.
        if error.errno not in (None, errno.EINVAL):
            raise UserError(f"archive {path} cannot be read: {error.strerror}") from error
        reason = "" if error.errno else f": {printable(str(error))}"
        raise UserError(f"archive {path} is damaged or cut short{reason}") from error
    except Exception as error:  # a damaged archive makes its readers fail in almost any way
        reason = f": {printable(str(error))}" if isinstance(error, _TOLD) and str(error) else ""
        raise UserError(f"archive {path} is damaged or cut short{reason}") from error


def _unpacked(file: IO[bytes], head: bytes) -> IO[bytes]:
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return cast(IO[bytes], bz2.BZ2File(file))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast(IO[bytes], lzma.LZMAFile(file))
    return file


def _safe_name(name: str, path: Path) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/"):
        raise UserError(f"archive {path} has a member outside its own tree: {printable(name)}")
    return "/".join(parts)


def _target(name: str, leads_to: str) -> str:
    """Return where a symbolic link of an archive leads, from the archive's top, '.'; '' for outside."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), leads_to))
    return "" if target.startswith(("/", "..")) else target


def _check_no_bomb(path: Path, unpacked: int) -> None:
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * (packed := path.stat().st_size):
        raise UserError(
            f"archive {path} says that its {packed:,} bytes unpack to {unpacked:,}, over {BOMB_RATIO} times as many:"
            " it is damaged or made to fill memory"
        )


def _check_size(path: Path, name: str, size: int) -> None:
    if size > LARGEST_MEMBER:
        raise UserError(f"archive {path}: {printable(name)} has {size:,} bytes, too many for a picture")


def _zip_members(file: IO[bytes], path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        listed = sorted(archive.infolist(), key=lambda member: member.header_offset)
        _check_no_bomb(path, sum(member.file_size for member in listed))
        end = 0
        for member in listed:
            if member.header_offset < end:
                raise zipfile.BadZipFile(f"{member.filename} overlaps what lies before it")
            end = member.header_offset + zipfile.sizeFileHeader + member.compress_size  # type: ignore[attr-defined]
            yield _zip_member(archive, member, path, wanted)


def _zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, wanted: Callable[[str], bool]) -> Member:
    told = _zip_name(member, path)
    name = _safe_name(told, path)
    if told.endswith("/"):
        return Member(name, "folder")
    if member.flag_bits & 1:
        raise UserError(f"archive {path} is encrypted ({printable(name)}): make it without a password")
    # Opening compares the two records that an archive keeps of each member, so a damaged one is not passed over.
    with archive.open(member) as opened:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind in _PIPES:
            return Member(name, "pipe")
        if kind == stat.S_IFLNK:
            return Member(name, "link", target=_target(name, opened.read(_LONGEST_LINK).decode("utf-8", "replace")))
        if not wanted(name):
            return Member(name, "file")
        _check_size(path, name, member.file_size)
        data = opened.read()
    if len(data) != member.file_size:
        raise zipfile.BadZipFile(f"{name} has {len(data):,} bytes, its record says {member.file_size:,}")
    return Member(name, "file", data)


def _zip_name(member: zipfile.ZipInfo, path: Path) -> str:
    """Return a member's name; makers of archives leave out the mark of UTF-8 (macOS) or write \\ for / (Windows).

    Errors: UserError where a backslash may be half of a letter, as in Shift-JIS, GBK and Big5: classes would merge.
    """
    name = member.filename
    if not member.flag_bits & _UTF8_NAME:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            if re.search(r"[^\x00-\x7f]\\", name):
                raise UserError(
                    f"archive {path} does not tell in which encoding its names are ({printable(name)}):"
                    " make it anew with names in UTF-8"
                ) from None
    return name.replace("\\", "/")


def _tar_members(file: IO[bytes], path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    stream = _Guarded(file)
    packed = isinstance(file, gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile)
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:", encoding="utf-8") as archive:
        offset = 0
        while (member := archive.next()) is not None:
            archive.members.clear()  # tarfile remembers every member, which a large archive has no memory for
            if archive.offset <= offset:  # type: ignore[attr-defined]
                raise tarfile.ReadError("its members do not follow each other")
            offset = archive.offset  # type: ignore[attr-defined]
            if packed:
                _check_no_bomb(path, offset)
            yield _tar_member(stream, member, path, wanted)
        stream.check_end()


def _tar_member(stream: "_Guarded", member: tarfile.TarInfo, path: Path, wanted: Callable[[str], bool]) -> Member:
    name = _safe_name(member.name, path)
    if member.isdir():
        return Member(name, "folder")
    if member.islnk():
        return Member(name, "link", target=_safe_name(member.linkname, path))
    if member.issym():
        return Member(name, "link", target=_target(name, member.linkname))
    if member.isdev():
        return Member(name, "pipe")
    if not member.isreg() or member.issparse():
        return Member(name, "other")
    if not wanted(name):
        return Member(name, "file")
    _check_size(path, name, member.size)
    stream.seek(member.offset_data)
    data = bytearray()
    while len(data) < member.size:
        part = stream.read(min(_CHUNK, member.size - len(data)))
        if not part:
            raise tarfile.ReadError(f"the file ends within {name}")
        data += part
    return Member(name, "file", bytes(data))


class _Guarded:
    """A stream for tarfile that tells what tarfile keeps silent about: it takes a damaged header for the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.last = b""

    def read(self, size: int) -> bytes:
        """Read on, as a file does, but for sizes that only damage or malice asks for."""
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self.file.read(size)
        return self.last

    def check_end(self) -> None:
        """Demand that the last header was the end mark, a block of zeros, and that only zeros follow it.

        Reading on to the end also checks the sums of what is compressed.
        """
        if not self.last:
            raise tarfile.ReadError("the end mark is missing")
        if self.last.count(0) != _TAR_BLOCK:
            raise tarfile.ReadError("a header is damaged")
        padding = 0
        while part := self.read(_CHUNK):
            padding += len(part)
            if part.count(0) != len(part):
                raise tarfile.ReadError("there is more after the end mark (several archives in one file?)")
            if padding > _PADDING:
                raise tarfile.ReadError("endless zeros after the end mark")

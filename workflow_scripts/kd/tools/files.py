"""Files that are either whole or absent: every output goes through a temporary name, the disk, and a rename."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd.tools.disk import disk_trouble
from kd.tools.errors import UserError

CHECKSUM = "checksum"
"""Key of a JSON file that holds the checksum of its other keys."""

_BLOCK = 2**22
_FOLDER = 0x10  # MS-DOS' attribute of folders, in a zip's list of parts
_STAGING = re.compile(r"\..*\.[0-9a-f]{8}\.part(\.[^.]*)?")
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}  # of folders on some file systems


def staging_name(path: Path) -> Path:
    """Return a temporary name beside a path that `leftovers` knows again.

    The suffix stays last: savers such as numpy's and matplotlib's read the format from it.
    """
    return path.with_name(f".{path.stem[:100]}.{secrets.token_hex(4)}.part{path.suffix}")


def leftovers(folder: str | Path) -> list[Path]:
    """Return the temporary files and folders that killed processes left in a folder or below it, in order of name.

    Those of processes that are still at work are among them.
    """
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        staged = [name for name in (*folders, *files) if _STAGING.fullmatch(name)]
        found += [Path(place, name) for name in staged]
        folders[:] = [name for name in folders if name not in staged]
    return sorted(found)


def remove_leftovers(folder: str | Path) -> None:
    """Delete what killed processes left; one that still runs has lost its place to whoever starts anew."""
    for path in leftovers(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def remove_staged(path: Path) -> None:
    """Delete what killed processes left of one path."""
    for left in path.parent.glob(f".{glob.escape(path.stem[:100])}.????????.part{glob.escape(path.suffix)}"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it on success and disappears on failure.

    After a power cut there is the old file or the new one, whole: the content reaches the disk before the name does.
    Errors: UserError for whatever keeps the file from being written, a full disk among others.
    """
    target = Path(path)
    temporary = staging_name(target)
    try:
        _make_folder(target.parent)
        yield temporary
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        os.chmod(temporary, 0o666 & ~_umask())  # safetensors writes files that nobody else may read
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    except Exception as error:
        if (trouble := disk_trouble(error)) is None:
            raise
        raise UserError(f"cannot write {target}: {trouble}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its place on success and goes away on failure.

    Errors: UserError for whatever keeps it from being written.
    """
    target = Path(folder)
    temporary = staging_name(target)
    try:
        _make_folder(temporary)
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        sync(target.parent)
    except Exception as error:
        if (trouble := disk_trouble(error)) is None:
            raise
        raise UserError(f"cannot write {target}: {trouble}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    """Return which permissions this process takes away from new files; there is no way to ask but to set them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Wait until a file's content, or which names a folder holds, is on the disk."""
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not (folder and error.errno in _CANNOT_SYNC):
            raise


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, names on the disk."""
    fresh = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in fresh:
        sync(one.parent)


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write a text or bytes file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file whole or not at all, keys in the order given; a mapping gets the checksum of its content."""
    content = {**value, CHECKSUM: _checksum(value)} if isinstance(value, dict) else value
    atomic_write(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | Path, sealed: bool = False) -> Any:
    """Read a JSON file; a missing or broken one, or one that is not as `write_json` left it, is a UserError.

    A file without a checksum is read as it is, unless it must be `sealed`.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers of thousands of digits, deep brackets
        raise UserError(f"{path} is damaged, it is not valid JSON ({error}): delete it and run again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    kept = value.pop(CHECKSUM, None) if isinstance(value, dict) else None
    if kept is None and not sealed:
        return value
    if kept is None:
        raise UserError(f"{path} lacks its {CHECKSUM}: delete it and run again")
    if kept != _checksum(value):
        raise UserError(f"{path} is damaged, its content is not what was written: delete it and run again")
    return value


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def whole_crc32(path: str | Path) -> int:
    """Return the CRC-32 of a whole file: of what finds every flipped bit, the quickest there is on any machine."""
    found, block = 0, memoryview(bytearray(_BLOCK))
    with Path(path).open("rb", buffering=0) as file:
        while count := file.readinto(block):
            found = zlib.crc32(block[:count], found)
    return found


def check_zip(path: str | Path, remedy: str = "delete it and run again") -> None:
    """Compare the checksums in a zip archive (.npz and torch's files are such) with its content.

    Errors: UserError for a damaged archive, with what to do about it; none for a file of another kind.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            # torch takes what is marked as a folder for empty, and its numbers from whatever memory held before
            folders = [part.filename for part in archive.infolist() if part.file_size and part.external_attr & _FOLDER]
    except Exception as error:  # a damaged archive raises almost anything: zlib's errors, NotImplementedError...
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}): {remedy}") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged (the checksum of its part {damaged} differs): {remedy}")
    if folders:
        raise UserError(f"{path} is damaged (its part {folders[0]} is marked as a folder): {remedy}")

"""The user's own files that jobs start from: whether they are there, and what they are known again by.

The configuration is checked without them: tables of a finished experiment are made where its images and weights are
gone. Only a job that is to run looks for what it needs.
"""

from collections.abc import Sequence
from pathlib import Path

from kd.formats.cifar import CIFARS, check_root
from kd.schema.config import DatasetSettings
from kd.study.digests import text_digest
from kd.study.made import read_record
from kd.tools.errors import UserError

APART = "."
"""Stands in an identity between what a job is asked and each file that it starts from."""


def check_images(name: str, settings: DatasetSettings) -> None:
    """Refuse to pack a data set whose files are not there. Errors: UserError that names the key and what was found."""
    for file in settings.files():
        if not file.is_file():
            raise UserError(f"datasets.{name}: {file} {'is no file' if file.exists() else 'does not exist'}")
    if settings.root is not None and not settings.download and not Path(settings.root).is_dir():
        found = "is a file" if Path(settings.root).exists() else "does not exist"
        raise UserError(f"datasets.{name}.root: folder {settings.root} {found}")
    if settings.source in CIFARS:
        check_root(settings.source, str(settings.root), settings.download, f"datasets.{name}")


def check_weights(name: str, file: str) -> None:
    """Refuse to train a network whose initial weights are not there. Errors: UserError."""
    if not Path(file).is_file():
        raise UserError(f"models.{name}.pretrained: file {file} does not exist")


def file_digest(path: str) -> str | None:
    """Return the digest of a file's size and modification time, None where it is not there."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return text_digest(f"{status.st_size} {status.st_mtime_ns}")


def file_digests(files: Sequence[str], record: str) -> tuple[str, ...]:
    """Return what files are known again by; of one that is gone, what the job's record says that it was."""
    found = [file_digest(file) for file in files]
    if None not in found:
        return tuple(filter(None, found))
    identity = (read_record(record) or {}).get("identity")
    before = identity.split(APART)[1:] if isinstance(identity, str) else []
    if len(before) != len(files):
        before = [text_digest("absent")] * len(files)
    return tuple(now or then for now, then in zip(found, before, strict=True))

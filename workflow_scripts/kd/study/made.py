"""What finished jobs say they were made from, and what unfinished ones leave as their reason.

Snakemake's own notes lie in .snakemake: they are lost with it, and do not travel with copied results. So each job
leaves a record beside its result, and a result is believed only while its record says what is asked.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from kd.study.digests import text_digest
from kd.tools.errors import UserError
from kd.tools.files import read_json, whole_crc32, write_json

MANIFEST = "manifest.json"
"""The last file that packing a data set writes: it says what is in the others."""
FAILURE = ".failure.json"
READABLE = {".json", ".csv"}
"""Suffixes of results that tables are made from, small enough to be read through each time."""
RESUME = "resume.pt"
UNFINISHED = "unfinished"
"""Beside a run's results: the state of a training, and the folder of a class-incremental run's tasks."""
INTERRUPTED = "interrupted; a later run goes on from the last finished epoch"
KILLED = "it was killed before it could say why (for lack of memory, at a time limit, or by hand)"


@dataclass(frozen=True)
class Note:
    """Where a job keeps its record, and the identity that it has."""

    record: Path
    identity: str
    results: tuple[Path, ...] = ()
    """The files that it promises."""
    code: str = ""
    """Digest of the code that makes them, which the identity has in it."""
    log: str = ""
    """Where the job logs."""

    @property
    def folder(self) -> Path:
        """Return the job's folder."""
        return self.record.parent.parent

    @property
    def failure(self) -> Path:
        """Return where it leaves the reason why it has no result."""
        return self.record.with_suffix(FAILURE)


def begin(note: Note, rule: str) -> None:
    """Take back what an earlier attempt said; a job that is killed leaves that as its reason.

    Errors: UserError where another process is at work on the same, as one that outlived its workflow may be.
    """
    _hold(note)
    note.record.unlink(missing_ok=True)
    with contextlib.suppress(UserError):  # a disk that takes no reason may still take the result
        fail(note, rule, KILLED)


def fail(note: Note, rule: str, reason: str) -> None:
    """Leave the reason why a job has no result, for the tables to show."""
    more = {"log": note.log} if note.log else {}
    write_json(note.failure, {"reason": reason, "rule": rule, "identity": note.identity, **more})


def finish(note: Note, data: str | None, more: Mapping[str, Any] | None = None) -> None:
    """Say what a result was made from, once all of it is written; `data` is the digest of the images it began with."""
    manifest = {} if data is None else {"data": data}
    code = {"code": note.code} if note.code else {}
    files = {os.path.relpath(path, note.folder): _state(path) for path in note.results}
    write_json(note.record, {"identity": note.identity, **code, **manifest, **(more or {}), "files": files})
    note.failure.unlink(missing_ok=True)
    if note.record in _held:
        lock = _held.pop(note.record)
        Path(lock.name).unlink(missing_ok=True)
        lock.close()


def _hold(note: Note) -> None:
    """Lock a job's record until it is finished or its process ends; file systems without locks do without."""
    try:
        note.record.parent.mkdir(parents=True, exist_ok=True)
        lock = note.record.with_name(f".{note.record.stem}.lock").open("a", encoding="utf-8")
    except OSError:  # a disk that takes no lock may still take the result, or says itself what is wrong
        return
    _held[note.record] = lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another process is still at work on {note.folder}: wait for its end, or end it, and run again"
        ) from error
    except OSError:
        return


_held: dict[Path, IO[str]] = {}  # open files hold the locks


def _state(path: Path) -> list[int]:
    """Return what a file is known again by: its size and its checksum."""
    return [path.stat().st_size, whole_crc32(path)]


def drop_progress(folder: Path) -> None:
    """Delete what an unfinished training would go on from.

    Not for the training itself to do: until the workflow has noted that it is done, a kill would cost all of it. What
    comes after it does so.
    """
    (folder / RESUME).unlink(missing_ok=True)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def drop_finished(root: str | Path) -> None:
    """Delete below a folder what finished trainings would go on from, once the workflow has noted all of them."""
    for resume in list(Path(root).rglob(RESUME)):
        records = [path for path in resume.parent.glob("made/*.json") if not path.name.endswith(FAILURE)]
        if records:
            drop_progress(resume.parent)


def manifest_digest(folder: str | Path) -> str | None:
    """Return the digest of packed arrays, None where there are none."""
    try:
        return text_digest((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def is_as_asked(step: Mapping[str, Any]) -> bool:
    """Whether the result of a job that `Jobs` noted for the tables was made from what is asked."""
    record = read_record(step["record"])
    return record is not None and stands(record, step["identity"], step["data"])


def exchanged(step: Mapping[str, Any]) -> str | None:
    """Return the first table or record of a job that `Jobs` noted that is not as the job left it, None if all are."""
    files = (read_record(step["record"]) or {}).get("files")
    for name, state in files.items() if isinstance(files, dict) else ():
        path = Path(step["folder"], name)
        if path.suffix in READABLE and path.is_file() and whole_crc32(path) != state[-1]:
            return str(path)
    return None


def check_result(path: str | Path, rule: str) -> None:
    """Refuse a result of the experiment's folder that is not what the rule's record says it left, if there is one."""
    step = {"folder": str(Path(path).parent), "record": str(Path(path).parent / "made" / f"{rule}.json")}
    if exchanged(step) is not None:
        raise UserError(f"{path} is damaged, its content is not what was written: delete it and run again")


def reason_of(step: Mapping[str, Any]) -> str | None:
    """Return why a job that `Jobs` noted for the tables has no result; what was said of another job is no reason."""
    found = read_record(Path(step["record"]).with_suffix(FAILURE))
    if found is None or found.get("identity") != step["identity"]:
        return None
    return str(found.get("reason") or "no reason was recorded")


def stands(record: Mapping[str, Any], identity: str, data: str | None) -> bool:
    """Whether a record says that a result was made of an identity and, if it is of images, from those in `data`."""
    return record.get("identity") == identity and is_of_images(record, data)


def is_of_images(record: Mapping[str, Any], data: str | None) -> bool:
    """Whether a record says that a result was made of the images in a folder, if it is of any."""
    now = None if data is None else _manifest_digest_once(data)
    # where the images are gone there is nothing to compare with
    return now is None or record.get("data") == now


@cache
def _manifest_digest_once(folder: str) -> str | None:
    return manifest_digest(folder)


def read_record(path: str | Path) -> dict[str, Any] | None:
    """Return a record, or a failure; None of one that is not there or is damaged, and so says nothing."""
    try:
        found = read_json(path)
    except (UserError, OSError):
        return None
    return found if isinstance(found, dict) else None

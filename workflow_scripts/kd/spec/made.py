"""What finished jobs say they were made from, and what unfinished ones leave as their reason.

Snakemake's own notes lie in .snakemake: they are lost with it, and do not travel with copied results. So each job leaves
a record beside its result, and a result is believed only while its record says what is asked.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kd.spec.digests import text_digest
from kd.spec.errors import UserError
from kd.spec.files import read_json, write_json
from kd.spec.jobplan import MANIFEST, JobPlan

FAILURE = ".failure.json"
RESUME = "resume.pt"
UNFINISHED = "unfinished"
"""Beside a run's results: the state of a training, and the folder of a class-incremental run's tasks."""
KILLED = "it was killed before it could say why (for lack of memory, at a time limit, or by hand)"


@dataclass(frozen=True)
class Note:
    """Where a job keeps its record, and the identity that it has."""

    record: Path
    identity: str

    @property
    def folder(self) -> Path:
        """Return the job's folder."""
        return self.record.parent.parent

    @property
    def failure(self) -> Path:
        """Return where it leaves the reason why it has no result."""
        return self.record.with_suffix(FAILURE)


def begin(note: Note, rule: str) -> None:
    """Take back what an earlier attempt said; a job that is killed leaves that as its reason."""
    note.record.unlink(missing_ok=True)
    fail(note, rule, KILLED)


def fail(note: Note, rule: str, reason: str) -> None:
    """Leave the reason why a job has no result, for the tables to show."""
    write_json(note.failure, {"reason": reason, "rule": rule, "identity": note.identity})


def finish(note: Note, data: Path | None, more: Mapping[str, Any] | None = None) -> None:
    """Say what a result was made from, once all of it is written."""
    manifest = {} if data is None else {"data": manifest_digest(data)}
    write_json(note.record, {"identity": note.identity, **manifest, **(more or {})})
    note.failure.unlink(missing_ok=True)


def drop_progress(folder: Path) -> None:
    """Delete what an unfinished training would go on from.

    Not for the training itself to do: until the workflow has noted that it is done, a kill would cost all of it. What
    comes after it does so.
    """
    (folder / RESUME).unlink(missing_ok=True)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def manifest_digest(folder: str | Path) -> str | None:
    """Return the digest of packed arrays, None where there are none."""
    try:
        return text_digest((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def is_made(job: JobPlan) -> bool:
    """Whether a job's result is there and was made from what is asked now."""
    record = read_record(job.record)
    if record is None or record.get("identity") != job.identity:
        return False
    if job.contents is not None and record.get("contents") != job.contents:
        return False
    now = None if job.data is None else _manifest_digest_once(job.data)
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

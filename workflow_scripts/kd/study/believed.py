"""Which results the workflow believes: those that say they were made from what is asked, and whose files are theirs."""

import atexit
import contextlib
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from kd.study.job_plan import JobPlan
from kd.study.made import READABLE, read_record, stands
from kd.tools.errors import UserError
from kd.tools.files import whole_crc32, write_json

TABLED = frozenset({"evaluate", "evaluate_teacher", "continual_matrix", "collect", "trials", "statistics"})
"""Rules of what tables and figures are made from."""
TRAININGS = frozenset(
    {
        "tune",
        "train_teacher",
        "teacher_outputs",
        "pretrain_method",
        "train_student",
        "train_students",
        "train_trial",
        "asib_teacher_update",
        "asib_student_update",
        "continual_run",
    }
)
"""Rules whose jobs wait until every network and method of the experiment was checked."""


def is_due(job: JobPlan) -> bool:
    """Whether a job's result is not there as asked, or rests on one that is not."""
    return any(map(is_due, job.parts)) if job.parts else not (_is_made_now(job) and all(map(is_settled, job.after)))


@cache
def is_settled(job: JobPlan) -> bool:
    """Whether a job's result can stay as it is, and so can all that it was made from."""
    return stays(job) and all(map(is_settled, job.after))


def stays(job: JobPlan) -> bool:
    """Whether there is nothing to make again: the result is what is asked, or was deleted and is missed by nobody.

    Packed arrays and weights may go to save space; what tables are made from is made again.
    """
    if job.parts:
        return all(map(stays, job.parts))
    return _is_made_now(job) or (job.rule not in TABLED and not Path(job.folder).exists())


def look_for_files(job: JobPlan) -> None:
    """Refuse a job that is to run where what it starts from is not there and cannot be made either.

    Errors: UserError that names the key of the experiment. Files of the user's are looked for by nobody else.
    """
    for one in job.parts or [job]:
        _look_for_files(one)


@cache
def _look_for_files(job: JobPlan) -> None:
    job.look()
    files = [name for named in job.inputs.values() for name in ([named] if isinstance(named, str) else named)]
    missing = [name for name in files if not Path(name).exists()]
    for before in job.after:
        if not _is_made_now(before) or any(name.startswith(f"{before.folder}/") for name in missing):
            _look_for_files(before)


def is_made(job: JobPlan) -> bool:
    """Whether a job's result is there and was made from what is asked now."""
    record = read_record(job.record)
    if record is None or not stands(record, job.identity, job.data) or not _holds_its_files(record, job):
        return False
    return job.contents is None or record.get("contents") == job.contents


_is_made_now = cache(is_made)  # one look at the disk for all questions of a start


def _holds_its_files(record: dict[str, Any], job: JobPlan) -> bool:
    """Whether the files of a result are those that were written."""
    try:
        for name, (size, checksum) in record["files"].items():
            path = Path(job.folder, name)
            if not path.is_file():
                if job.rule in TABLED and path.suffix in READABLE:
                    return False
            elif path.stat().st_size != size or SEEN.checksum(path) != checksum:
                return False
    except (KeyError, TypeError, ValueError, AttributeError, OSError):
        return False
    return True


class Seen:
    """Checksums of files that were read through once, kept for the next start: valid while size, time and place are."""

    def __init__(self) -> None:
        self.before: dict[str, list[int]] = {}
        self.now: dict[str, list[int]] = {}

    def checksum(self, path: Path) -> int:
        """Return the checksum of a file, read only if it is not the one that was seen before."""
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self.now.get(str(path)) or self.before.get(str(path)) or []
        self.now[str(path)] = known if known[:-1] == state else [*state, whole_crc32(path)]
        return self.now[str(path)][-1]

    def keep_in(self, path: str) -> None:
        """Take what was seen before from a file, and write what is seen now when the process ends."""
        self.before = read_record(path) or {}
        atexit.register(self._write, path)

    def _write(self, path: str) -> None:
        if self.now != self.before:
            with contextlib.suppress(UserError, OSError):  # it saves time only
                write_json(path, self.now)


SEEN = Seen()


def bring_to_the_present(job: JobPlan) -> None:
    """Touch files that a faster clock dated in the future: they would look newer than any reason to make them again."""
    now, folder = time.time(), Path(job.folder)
    files = (read_record(job.record) or {}).get("files")
    known = [folder / name for name in files] if isinstance(files, dict) else [*folder.glob("*"), *folder.glob("*/*")]
    for path in known:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime > now:
                os.utime(path)

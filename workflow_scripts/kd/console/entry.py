"""How every script starts and ends: arguments, logging, one sentence and a non-zero status for a user's mistake."""

import argparse
import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from kd.study.made import Note, begin, fail, finish, manifest_digest
from kd.tools.disk import disk_trouble
from kd.tools.errors import UserError, shown
from kd.tools.files import read_json

log = logging.getLogger("kd")
INTERRUPTED = "interrupted; a later run goes on from the last finished epoch"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LINE = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")


Main = Callable[[argparse.Namespace], Mapping[str, Any] | None]


def run(main: Main, parser: argparse.ArgumentParser, rule: str) -> NoReturn:
    """Parse arguments, run `main` and end the process.

    With --made a job that ends well leaves a record of what its result was made from, with what `main` returns; any
    other one leaves the reason, for the tables to show. A UserError, a full or read-only disk and too little memory are
    one line on stderr and exit status 1; where the disk takes not even the reason, the same line says so.
    """
    parser.add_argument("--log", type=Path, help="file that gets the log of this attempt")
    parser.add_argument("--made", nargs=2, metavar=("FILE", "IDENTITY"), help="record of what the result is made from")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="the files that the result is")
    arguments = parser.parse_args()
    notes: Sequence[Note] = []
    try:
        start_logging(arguments.log)
        notes = notes_of(arguments)
        for folder in folders_of(arguments, notes):
            keep_history(folder)
        for note in notes:
            begin(note, rule)
        data = manifest_digest(arguments.data) if hasattr(arguments, "data") else None
        more = main(arguments)
        for note in notes:
            finish(note, data, more)
    except KeyboardInterrupt:
        lost = "".join(leave_reason(note, INTERRUPTED, rule) for note in notes)
        log.error("%s%s", INTERRUPTED, lost)
        sys.exit(130)
    except Exception as error:
        told = sentence(error)
        reason = told or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        lost = "".join(leave_reason(note, reason, rule) for note in notes)
        log.error("%s%s", reason if told else "unexpected error", lost, exc_info=None if told else error)
        log.debug("where it came from", exc_info=error)
        sys.exit(1)
    leave()


def notes_of(arguments: argparse.Namespace) -> list[Note]:
    """Return the records that a job keeps: its own, or that of each of its --runs, none where nobody asks for one."""
    if arguments.made:
        return [Note(Path(arguments.made[0]), arguments.made[1], tuple(arguments.results))]
    together = read_json(arguments.runs) if getattr(arguments, "history", False) and hasattr(arguments, "runs") else []
    found = [Note(Path(one["record"]), one["identity"]) for one in together]
    own = [tuple(path for path in arguments.results if path.is_relative_to(note.folder)) for note in found]
    return [replace(note, results=results) for note, results in zip(found, own, strict=True)]


def folders_of(arguments: argparse.Namespace, notes: Sequence[Note]) -> list[Path]:
    """Return the run folders that keep a log of all attempts."""
    if not getattr(arguments, "history", False):
        return []
    return [note.folder for note in notes] or [arguments.out]


def sentence(error: Exception) -> str | None:
    """Return what a user is told of an error, without a traceback; None for what only a traceback explains."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, on a GPU
        return "out of memory"
    trouble = disk_trouble(error)
    file = getattr(error, "filename", None)
    return f"cannot use {os.fsdecode(file)}: {trouble}" if trouble and isinstance(file, str | bytes) else trouble


def leave_reason(note: Note, reason: str, rule: str) -> str:
    """Leave a job's reason; return how a sentence ends that tells of it, which is nothing where that worked."""
    try:
        fail(note, rule, reason)
    except UserError as error:
        return f"; nor is the reason kept: {error}"
    return ""


def leave() -> NoReturn:
    """End the process with status 0, once everything that waits for its end has been called.

    Python would go on to take every module and object apart, which for torch's is half a second of every job.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # what is printed is on a full disk; the job's own files are whole
            stream.flush()
    os._exit(0)


def start_logging(attempt: Path | None) -> None:
    """Log plain lines to stderr and to this attempt's file, from the level on that KD_LOG_LEVEL says.

    Level DEBUG shows where every error came from. Errors: UserError for an unknown level.
    """
    # libraries speak up from warnings on; their INFO (fontTools lists every glyph) would bury ours
    logging.basicConfig(level=logging.WARNING, handlers=[logging.StreamHandler()], force=True)
    logging.getLogger().handlers[0].setFormatter(LINE)
    if attempt is not None:
        logging.getLogger().addHandler(LogFile(attempt, "w"))
    level = os.environ.get("KD_LOG_LEVEL", "INFO").upper()
    if level not in LEVELS:
        raise UserError(f"KD_LOG_LEVEL is {shown(level)}: allowed are {', '.join(LEVELS)}")
    log.setLevel(level)


def keep_history(folder: Path) -> None:
    """Log to a run's train.log too, behind what earlier attempts wrote there."""
    logging.getLogger().addHandler(LogFile(folder / "train.log", "a"))


class LogFile(logging.Handler):
    """A log on disk, in UTF-8. One that cannot be opened is a UserError; one that fills up ends, and that is told once.

    Nothing waits in a buffer: what a full disk did not take must not be tried again when the process ends.
    """

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__()
        self.path, self.ended = path, False
        self.setFormatter(LINE)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open(f"{mode}b", buffering=0)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or, if that fails, none any more."""
        if self.ended:
            return
        try:
            self.file.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except OSError as error:
            self.ended = True
            log.warning("%s ends here: %s", self.path, error.strerror)
        except Exception:  # a line that cannot be formatted is shown on stderr and ends no job
            self.handleError(record)

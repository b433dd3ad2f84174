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

from kd.study.made import INTERRUPTED, Note, begin, fail, finish, manifest_digest
from kd.tools.disk import disk_trouble
from kd.tools.errors import UserError, shown
from kd.tools.files import read_json

log = logging.getLogger("kd")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LINE = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
BARRED = "barred"
"""Attribute of log records of what a bar on the terminal shows already: they are for files alone."""


Main = Callable[[argparse.Namespace], Mapping[str, Any] | None]


def run(main: Main, parser: argparse.ArgumentParser, rule: str) -> NoReturn:
    """Parse arguments, run `main` and end the process.

    With --made a job that ends well leaves a record of what its result was made from, with what `main` returns; any
    other one leaves the reason, for the tables to show. A UserError, a full or read-only disk and too little memory are
    one line on stderr and exit status 1; where the disk takes not even the reason, the same line says so.
    --settings and --report may be the file of a text as well, which would be long for a command.
    """
    parser.add_argument("--log", type=Path, help="file that gets the log of this attempt")
    parser.add_argument(
        "--made",
        nargs="+",
        metavar=("FILE IDENTITY", "CODE TITLE"),
        help="record of what the result is made from: where it lies, what it says, and what the job is called",
    )
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="the files that the result is")
    arguments = parser.parse_args()
    notes: Sequence[Note] = []
    try:
        start_logging(arguments.log, title_of(arguments))
        notes = notes_of(arguments)
        read_settings(arguments)
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
    log_file = "" if arguments.log is None else str(arguments.log)
    if arguments.made:
        record, identity, code = (*arguments.made, "")[:3]
        return [Note(Path(record), identity, tuple(arguments.results), code, log_file)]
    found = [Note(Path(one["record"]), one["identity"], (), one.get("code", ""), log_file) for one in _runs(arguments)]
    own = [tuple(path for path in arguments.results if path.is_relative_to(note.folder)) for note in found]
    return [replace(note, results=results) for note, results in zip(found, own, strict=True)]


def title_of(arguments: argparse.Namespace) -> str:
    """Return what the job is called, of several --runs their beginnings; nothing where nobody says."""
    if arguments.made:
        return arguments.made[3] if len(arguments.made) > 3 else ""
    titles = [one["title"] for one in _runs(arguments) if "title" in one]
    return f"{', '.join(dict.fromkeys(title.partition(':')[0] for title in titles))} side by side" if titles else ""


def _runs(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is told of each of the runs that a job trains side by side."""
    together = getattr(arguments, "history", False) and hasattr(arguments, "runs")
    return list(read_json(arguments.runs)) if together else []


def read_settings(arguments: argparse.Namespace) -> None:
    """Take the texts of a job's settings from the files that hold them, where they are not the texts themselves."""
    for name in ("settings", "report"):
        given = getattr(arguments, name, None)
        if isinstance(given, str) and given.endswith(".json"):
            try:
                setattr(arguments, name, Path(given).read_text(encoding="utf-8"))
            except OSError as error:
                raise UserError(f"--{name}: cannot read {given}: {error.strerror}") from error


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


class Titled(logging.Formatter):
    """Lines that say whose they are: jobs side by side write to one terminal."""

    def __init__(self, title: str) -> None:
        super().__init__(LINE._fmt, LINE.datefmt)
        self.title = title

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Put the job's title before what it says, unless it begins with that."""
        if self.title and not record.message.startswith(self.title):
            record.message = f"{self.title}: {record.message}"
        return super().formatMessage(record)


def start_logging(attempt: Path | None, title: str = "") -> None:
    """Log plain lines to stderr, each below the job's title, and to this attempt's file, from KD_LOG_LEVEL on.

    Level DEBUG shows where every error came from. Errors: UserError for an unknown level.
    """
    # libraries speak up from warnings on; their INFO (fontTools lists every glyph) would bury ours
    logging.basicConfig(level=logging.WARNING, handlers=[logging.StreamHandler()], force=True)
    terminal = logging.getLogger().handlers[0]
    terminal.setFormatter(Titled(title))
    terminal.addFilter(lambda record: not hasattr(record, BARRED))
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

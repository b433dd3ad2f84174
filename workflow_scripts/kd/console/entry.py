"""How every script starts and ends: arguments, logging, one sentence and a non-zero status for a user's mistake."""

import argparse
import atexit
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from kd.spec.disk import disk_trouble
from kd.spec.errors import UserError
from kd.spec.files import write_json

log = logging.getLogger("kd")
LINE = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, rule: str) -> None:
    """Parse arguments, run `main` and end the process.

    A UserError, a full or read-only disk and too little memory are one line on stderr and exit status 1. Jobs that fill
    a run folder leave the reason there as failure.json, for the tables to show; where the disk takes not even that, the
    same line says so.
    """
    parser.add_argument("--log", type=Path, help="file that gets the log of this attempt")
    arguments = parser.parse_args()
    folders: Sequence[Path] = []
    try:
        start_logging(arguments.log)
        folders = run_folders(arguments)
        if getattr(arguments, "history", False):
            for folder in folders:
                keep_history(folder)
        main(arguments)
    except KeyboardInterrupt:
        log.error("interrupted; a later run goes on from the last finished epoch")
        sys.exit(130)
    except Exception as error:
        told = sentence(error)
        reason = told or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        lost = "".join(leave_reason(folder, reason, rule) for folder in folders)
        log.error("%s%s", reason if told else "unexpected error", lost, exc_info=None if told else error)
        log.debug("where it came from", exc_info=error)
        sys.exit(1)
    leave()


def run_folders(arguments: argparse.Namespace) -> list[Path]:
    """Return the run folders that a job fills: --out beside --data or --halves, or that of each of its --runs."""
    if not hasattr(arguments, "data") and not hasattr(arguments, "halves"):
        return []
    if hasattr(arguments, "out"):
        return [] if arguments.out.suffix == ".json" else [arguments.out]
    return [Path(one["folder"]) for one in json.loads(arguments.runs)]


def sentence(error: Exception) -> str | None:
    """Return what a user is told of an error, without a traceback; None for what only a traceback explains."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, on a GPU
        return "out of memory"
    trouble = disk_trouble(error)
    file = getattr(error, "filename", None)
    return f"cannot use {os.fsdecode(file)}: {trouble}" if trouble and isinstance(file, str | bytes) else trouble


def leave_reason(folder: Path, reason: str, rule: str) -> str:
    """Write failure.json; return how a sentence ends that tells of it, which is nothing where that worked."""
    try:
        write_json(folder / "failure.json", {"reason": reason, "rule": rule})
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
    """Log plain lines to stderr and to this attempt's file."""
    # libraries speak up from warnings on; their INFO (fontTools lists every glyph) would bury ours
    logging.basicConfig(level=logging.WARNING, handlers=[logging.StreamHandler()], force=True)
    logging.getLogger().handlers[0].setFormatter(LINE)
    log.setLevel(os.environ.get("KD_LOG_LEVEL", "INFO").upper())
    if attempt is not None:
        logging.getLogger().addHandler(LogFile(attempt, "w"))


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

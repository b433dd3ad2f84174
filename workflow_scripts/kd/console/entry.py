"""How every script starts and ends: arguments, logging, one sentence and a non-zero status for a user's mistake."""

import argparse
import atexit
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kd.spec.errors import UserError
from kd.spec.files import write_json

log = logging.getLogger("kd")
LINE = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, rule: str) -> None:
    """Parse arguments, run `main` and end the process; a UserError is one line on stderr and exit status 1.

    Jobs that fill a run folder (--out beside --data) leave the reason there as failure.json, for the tables to show.
    """
    parser.add_argument("--log", type=Path, help="file that gets the log of this attempt")
    arguments = parser.parse_args()
    folder: Path | None = getattr(arguments, "out", None) if hasattr(arguments, "data") else None
    start_logging(arguments.log)
    if folder is not None and getattr(arguments, "history", False):
        keep_history(folder)
    try:
        main(arguments)
    except UserError as error:
        reason = str(error)
        log.error("%s", reason)
    except MemoryError:
        reason = "out of memory"
        log.error("%s", reason)
    except KeyboardInterrupt:
        log.error("interrupted; a later run goes on from the last finished epoch")
        sys.exit(130)
    except Exception as error:
        log.exception("unexpected error")
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    else:
        leave()
    if folder is not None:
        write_json(folder / "failure.json", {"reason": reason, "rule": rule})
    sys.exit(1)


def leave() -> NoReturn:
    """End the process with status 0, once everything that waits for its end has been called.

    Python would go on to take every module and object apart, which for torch's is half a second of every job.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def start_logging(attempt: Path | None) -> None:
    """Log plain lines to stderr and to this attempt's file."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if attempt is not None:
        handlers.append(_file(attempt, "w"))
    for handler in handlers:
        handler.setFormatter(LINE)
    # libraries speak up from warnings on; their INFO (fontTools lists every glyph) would bury ours
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    log.setLevel(os.environ.get("KD_LOG_LEVEL", "INFO").upper())


def keep_history(folder: Path) -> None:
    """Log to a run's train.log too, behind what earlier attempts wrote there."""
    handler = _file(folder / "train.log", "a")
    handler.setFormatter(LINE)
    logging.getLogger().addHandler(handler)


def _file(path: Path, mode: str) -> logging.FileHandler:
    path.parent.mkdir(parents=True, exist_ok=True)
    return logging.FileHandler(path, mode=mode)

"""Texts that can be longer than an argument of a command may be, in files that are named by their digest."""

from pathlib import Path

from kd.study.digests import text_digest
from kd.tools.files import atomic_write

FOLDER = Path(".snakemake/kd/texts")
_used: set[Path] = set()


def text_file(text: str, write: bool = True) -> str:
    """Return the file of a text, which is written unless it is there, or is only to be named."""
    path = FOLDER / f"{text_digest(text)}.json"
    if write and path not in _used and not path.is_file():
        atomic_write(path, text)
    if write:
        _used.add(path)
    return str(path)


def drop_old_texts() -> None:
    """Delete the texts of earlier starts: Snakemake's lock lets nobody else work here."""
    for path in FOLDER.glob("*"):
        if path not in _used:
            path.unlink(missing_ok=True)

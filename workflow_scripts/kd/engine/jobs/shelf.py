"""Measurements that the experiments of a machine share: a file for each, named after all that it depends on.

They are no input of any job: what was chosen by one is written into the experiment's own folder, where jobs read it. So
an experiment keeps its choice whatever happens here, and a lost shelf costs time only.
"""

import contextlib
import fcntl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kd.study.digests import canonical, text_digest
from kd.tools.errors import UserError
from kd.tools.files import read_json, write_json

Rows = list[dict[str, Any]]


class Shelf:
    """A folder of measurements, or no folder: then nothing is known and nothing kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def read(self, about: Mapping[str, Any]) -> Rows | None:
        """Return what was measured of the very same; None where nothing was, or the file is damaged."""
        if self.folder is None:
            return None
        try:
            found = read_json(self._path(about), sealed=True)
        except UserError:
            return None
        return list(found["measured"]) if found.get("about") == dict(about) else None

    def keep(self, about: Mapping[str, Any], rows: Rows) -> None:
        """Keep a measurement, whole or not at all; a folder that takes no file does without."""
        if self.folder is not None:
            with contextlib.suppress(UserError):
                write_json(self._path(about), {"about": dict(about), "measured": rows})

    @contextlib.contextmanager
    def alone(self, *names: str) -> Iterator[None]:
        """Wait until nobody else measures what, or at which place, is named so; always in the same order of kinds.

        Who waited for the same measurement then finds it; two at one place would slow each other down. A file system
        without locks does without.
        """
        with contextlib.ExitStack() as held:
            for name in names:
                if self.folder is None:
                    break
                with contextlib.suppress(OSError):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    lock = (self.folder / f"{text_digest(name)}.lock").open("a", encoding="utf-8")
                    fcntl.flock(held.enter_context(lock), fcntl.LOCK_EX)
            yield

    def _path(self, about: Mapping[str, Any]) -> Path:
        assert self.folder is not None, "there is a folder"
        return self.folder / f"{text_digest(canonical(dict(about)))}.json"

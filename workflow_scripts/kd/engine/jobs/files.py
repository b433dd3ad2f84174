"""Where a job reads and writes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd.study.digests import text_digest
from kd.study.made import MANIFEST
from kd.tools.errors import UserError


@dataclass(frozen=True)
class Files:
    """Where a job reads and writes."""

    data: Path
    folder: Path
    teachers: Sequence[Path] = ()
    outputs: Sequence[Path] = ()
    """What each teacher makes of the fixed view, for a run that reads it."""
    pretrained: Path | None = None
    previous: Path | None = None
    """State of the half-stage before this one."""
    budget: Sequence[Path] = ()
    """Records of the runs whose operations the job may spend; what they say stands in its settings."""
    tuned: Sequence[Path] = ()
    """How the job's networks run, the student first, where that was measured."""
    code: str = ""
    """Digest of the code that the workflow saw."""

    def digest(self) -> str:
        """Return a digest of everything that the job reads."""
        inputs = [
            self.data / MANIFEST,
            *self.teachers,
            *self.outputs,
            self.pretrained,
            self.previous,
            *self.tuned,
        ]
        return text_digest("".join(_file_digest(path) for path in inputs if path is not None))

    def digests(self, split: str) -> dict[str, str]:
        """Return the digests that run.json names: of code, of all that was read, of the images' split."""
        return {"code": self.code, "inputs": self.digest(), "split": split}


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error

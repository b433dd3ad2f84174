"""Rows of runs.csv: a run as it was planned, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from kd.analysis import measures


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which run it is."""

    experiment: str
    dataset: str
    pair: str
    teachers: str
    student: str
    method: str
    base_method: str
    seed: int
    kind: str

    @property
    def group(self) -> tuple[str, str]:
        """Return data set and pair: what is compared stands in one group."""
        return self.dataset, self.pair

    def identity(self) -> dict[str, Any]:
        """Return the fields that say which run it is."""
        return {one.name: getattr(self, one.name) for one in fields(Identity)}


@dataclass(frozen=True, kw_only=True)
class PlannedRun(Identity):
    """A run, and where what it is judged by lies."""

    path: str
    """Its folder."""
    teacher_paths: Sequence[str]
    """Folders of what it owes teachers' costs to."""
    prestage_paths: Sequence[str]
    """Folders of all else that was made for it."""
    taught_by: Sequence[str]
    """Folders of the networks that taught it."""
    made: Mapping[str, Any]
    """What its results must have been made from (kd.study.jobs.reports)."""


@dataclass(frozen=True, kw_only=True)
class RunRow(Identity):
    """One row of runs.csv; texts are empty where they are not known."""

    status: str
    """ok, failed or missing."""
    reason: str
    """Why it has no numbers, on one line."""
    path: str
    teacher_test_top1: str = ""
    """Of each network that taught it, with ; between them."""
    device: str = ""
    precision: str = ""
    """The number format that it was trained in."""
    kernels: str = ""
    eval_precision: str = ""
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    """By column, those of kd.analysis.measures; None where one is not known."""

    def number(self, column: str) -> float | None:
        """Return the number in a column, None where it is not known."""
        return self.numbers.get(column)

    @property
    def made(self) -> tuple[str, str, str]:
        """Return how its numbers were made: format and kernels of training, format of evaluation."""
        return self.precision, self.kernels, self.eval_precision

    def cells(self) -> dict[str, Any]:
        """Return it by column of runs.csv."""
        texts = asdict(self)
        return texts | texts.pop("numbers")


def columns() -> list[str]:
    """Return the columns of runs.csv in order."""
    identity = [one.name for one in fields(Identity)]
    return [*identity, "status", "reason", *measures.columns(), "path"]

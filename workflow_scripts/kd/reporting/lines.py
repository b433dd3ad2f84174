"""The numbers of a comparison's lines, as its tables, captions and the page read them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from kd.analysis.compared import Difference
from kd.analysis.placed import MethodRecord


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A published number beside ours."""

    top1: float
    difference: float | None
    """Ours minus theirs."""
    source: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method or teacher: what its seeds say, what they cost and what it is compared with."""

    record: MethodRecord
    means: Mapping[str, float | None]
    """By name, those of kd.analysis.measures over the finished seeds; None where one of them does not know it."""
    devices: list[str]
    made: list[tuple[str, str, str]]
    """How its runs were made (kd.analysis.rows.RunRow.made), where they say."""
    differences: Mapping[str, Difference]
    """By reference."""
    published: Mapping[str, Beside]
    """By the epoch that it was read at."""
    control: Difference | None = None
    """To the method's control, if it has one."""

    @property
    def role(self) -> str:
        """Return student, teacher or link."""
        return self.record.role

    def content(self) -> dict[str, Any]:
        """Return it as comparison.json has it."""
        own = {key: value for key, value in asdict(self).items() if key not in ("record", "means")}
        return {**asdict(self.record), **self.means, **own}


class Numbers(Protocol):
    """What a table's row is made from."""

    @property
    def role(self) -> str:
        """Return student, teacher or link."""

    def content(self) -> dict[str, Any]:
        """Return it as the table's JSON file has it."""


N = TypeVar("N", bound=Numbers, covariant=True)


@dataclass(frozen=True)
class Row(Generic[N]):
    """One line of a table: its numbers, and its cells as read, by column key."""

    numbers: N
    cells: dict[str, str]
    bold: bool
    marks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Section(Generic[N]):
    """The table of one data set and one pair."""

    dataset: str
    pair: str
    caption: str
    columns: dict[str, str]
    """Key -> heading."""
    rows: Sequence[Row[N]]
    notes: list[tuple[str, str]]
    """Mark (or '') and text, for what failed or is missing and for the sources of published numbers."""
    warning: str = ""
    """What a reader must not miss, above the table."""
    main: tuple[str, ...] = ()
    """Keys of the columns that matter, where there are others; the rest is for whom wants it."""

    @property
    def shown(self) -> dict[str, str]:
        """Return the headings, by key, of the columns that matter."""
        return {key: heading for key, heading in self.columns.items() if not self.main or key in self.main}

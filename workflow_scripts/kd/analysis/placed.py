"""What is said of a method or teacher in one comparison group, and of which pair of methods a difference is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Something of one comparison group."""

    dataset: str
    pair: str

    @property
    def group(self) -> tuple[str, str]:
        """Return data set and pair."""
        return self.dataset, self.pair


@dataclass(frozen=True, kw_only=True)
class Against:
    """A method and the one that it is compared with."""

    method: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A run without result."""

    seed: int
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class MethodRecord(Placed):
    """What the seeds of one method, or of one teacher, say; a mean without interval is that of one seed."""

    role: str
    """student, teacher or link."""
    method: str
    base_method: str
    teachers: str
    student: str
    n_planned: int
    n_used: int
    complete: bool
    mean: float | None
    sd: float | None
    half_width: float | None
    low: float | None
    high: float | None
    seeds: list[int]
    values: list[float]
    """In the order of the seeds."""
    unused: list[Lost]
    is_best: bool
    tied_with_best: bool | None
    """Whether the paired interval does not place it below the best; None where that cannot be said."""

    @property
    def by_seed(self) -> dict[int, float]:
        """Return the values by seed."""
        return dict(zip(self.seeds, self.values, strict=True))

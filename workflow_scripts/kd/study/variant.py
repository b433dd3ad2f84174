"""What an experiment compares: a method, or several whose losses add up, with settings of its own."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kd.schema.cards import Card, card, load_cards

KINDS = {"none": 0, "one": 1, "many": 2}


@dataclass(frozen=True)
class Variant:
    """One row of the comparison: a method, or several whose losses add up, with settings of its own."""

    name: str
    parts: tuple[tuple[str, dict[str, Any]], ...]
    """Card (its name, or its path where it lies outside the repository) and complete settings of each loss."""
    recipe: dict[str, Any]
    teacher: str | None
    suffix: str = ""
    """What the folder of a link of a chain of runs has after the name."""
    network: str | None = None
    """What a link trains, where that is not the pair's student."""
    after: "Variant | None" = None
    """Whose student, of the same seed, teaches this one; None: the pair's teachers do."""
    last: bool = True
    """Whether it is what the experiment asked for, and not a run on the way there."""
    compute_of: tuple[str, ...] = ()
    """Folders' names of the variants whose operations it trains for, the most that one of them takes; empty: it trains
    for the recipe's epochs."""
    control_of: str = ""
    """Name of the variant that it is the control of."""
    ensemble: bool = False
    """Whether the mean of a chain's predictions is reported with its last run."""
    given: tuple[frozenset[str], ...] = ()
    """The settings of each part that its entry gives."""
    searched: str = ""
    """Name of the variant whose settings were searched for it, or are in its trial; its parts are then as written."""
    trial: int = 0
    """The number, from 1, of a search's trial, whose parts are drawn; 0 of any other."""

    @property
    def folder(self) -> str:
        """Return the name of its folders, which is that of its row too unless it is the last link."""
        return self.name + self.suffix

    @property
    def lineage(self) -> "tuple[Variant, ...]":
        """Return every variant that its run learns from, directly or not, and itself, in the order of training."""
        return (*(self.after.lineage if self.after else ()), self)

    @property
    def teachers(self) -> str:
        """Return how many of the pair's teachers stand at the beginning: 'none', 'one' or 'many'."""
        if self.after is not None:
            return self.after.teachers
        return max((card(name).teachers for name, _ in self.parts), key=KINDS.__getitem__)

    @property
    def pretrain(self) -> bool:
        """Whether a pre-stage depends on the teacher alone."""
        return any(card(name).pretrain for name, _ in self.parts)

    @property
    def chain(self) -> bool:
        """Whether the run is a chain of half-stages."""
        return any(card(name).chain for name, _ in self.parts)

    @property
    def linked(self) -> bool:
        """Whether the run is a link of a chain of runs."""
        return any(card(name).links != "none" for name, _ in self.parts)

    @property
    def budgeted(self) -> bool:
        """Whether it trains for the operations of other runs, which it waits for."""
        return bool(self.compute_of) or any(card(name).compute != "recipe" for name, _ in self.parts)

    @property
    def base(self) -> str:
        """Return the card name, or the names joined by '+'."""
        return "+".join(card(name).name for name, _ in self.parts)

    @property
    def family(self) -> str:
        """Return the family of its method, by which figures are coloured; 'combined' where several losses add up."""
        return card(self.parts[0][0]).family if len(self.parts) == 1 else "combined"


def cards_of(variants: Iterable[Variant]) -> dict[str, Card]:
    """Return every card of the repository and those of variants that lie outside, by name."""
    found = [card(reference) for variant in variants for reference, _ in variant.parts]
    return {**load_cards(), **{one.name: one for one in found}}

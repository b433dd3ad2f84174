"""What the page shows of one method where a reader opens it: card, cost, curves, classes, calibration, settings."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd.analysis import measures
from kd.analysis.details import ClassByClass, Detail
from kd.analysis.measures import LATENCY_FACT
from kd.reporting import text
from kd.reporting.figures import Group
from kd.reporting.lines import Line
from kd.reporting.pictures import DPI, method_curves, reliability_picture
from kd.reporting.style import png
from kd.schema.cards import Card

MOST_EXTREMES = 5
HEADING = 3
"""Characters that fit above a column of the confusion matrix."""
MOST_CLASSES = 200
"""More classes than these are not listed one by one in every method's fold-out."""


@dataclass(frozen=True)
class OneClass:
    """One class as one method answers it."""

    name: str
    images: int
    accuracy: float
    other: float | None
    """That of the method which it is compared with."""

    @property
    def gain(self) -> float:
        """Return how much better it is answered, in points."""
        return 0.0 if self.other is None else self.accuracy - self.other

    @property
    def cells(self) -> list[str]:
        """Return what is shown of it: accuracies and difference."""
        if self.other is None:
            return [text.decimal(self.accuracy, 1)]
        return [text.decimal(self.other, 1), text.decimal(self.accuracy, 1), text.signed(self.gain, 1)]


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion matrix: percent of the true class's images, and how dark it is, 0 to 9."""

    percent: str
    shade: int


@dataclass(frozen=True)
class Classes:
    """What is shown of a method's answers class by class."""

    seeds: int
    against: str
    """The method that it is compared with, empty where there is none."""
    gains: list[OneClass]
    losses: list[OneClass]
    every: list[OneClass]
    """Empty where they are too many."""
    count: int
    error: str
    """The standard error of one class's accuracy, in points."""
    mistakes: list[tuple[str, str, str]]
    """True class, answered class, percent."""
    matrix: list[tuple[str, list[Cell]]]
    """Rows of the confusion matrix by true class; empty where they are too many."""
    short: bool
    """Whether the names of classes fit above its columns, where numbers stand for them otherwise."""
    calibration: str
    picture: str


@dataclass(frozen=True)
class Fold:
    """What the fold-out of one method shows."""

    name: str
    mean: str
    color: str
    family: str
    cards: list[Card]
    """Of each loss that it adds up."""
    settings: str | None
    """Of the first finished run, None where none has finished."""
    seed: int | None
    curves: str | None
    """A picture."""
    facts: list[tuple[str, str]]
    classes: Classes | None


def fold_of(line: Line, group: Group, cards: Mapping[str, Card], details: Mapping[str, Detail]) -> Fold:
    """Return the fold-out of one method; `details` are those of its group."""
    record, detail = line.record, details.get(line.record.method)
    look = group.looks[record.method]
    figure = method_curves(group.curves.get(record.method, {}), look)
    known = detail.by_class if detail else None
    return Fold(
        name=record.method,
        mean=text.decimal(record.mean),
        color=look.color,
        family=look.family,
        cards=[cards[name] for name in record.base_method.split("+") if name in cards],
        settings=pretty(detail.settings) if detail else None,
        seed=detail.seed if detail else None,
        curves=data_uri(png(figure, DPI)) if figure else None,
        facts=[*_facts(line), *(_ran(detail) if detail else [])],
        classes=_classes(record.method, known, group, details) if known else None,
    )


def _facts(line: Line) -> list[tuple[str, str]]:
    """Return names and values of what else was measured and what it cost, means over the finished seeds."""
    unmeasured = {one.fact for one in measures.deployed() if line.means[one.name] is None}
    told = {fact: found for fact, found in measures.together("fact").items() if fact not in unmeasured}
    signs = {LATENCY_FACT: " / "}
    return [(fact, text.amounts(line.means, found, signs.get(fact, " + "))) for fact, found in told.items()]


def _ran(detail: Detail) -> list[tuple[str, str]]:
    """Return how each network ran."""
    return [(f"How {role} ran", words) for role, words in detail.ran.items()]


def _classes(method: str, own: ClassByClass, group: Group, details: Mapping[str, Detail]) -> Classes:
    comparable = {name for name, detail in details.items() if name != method and _comparable(own, detail)}
    against = group.held_against(comparable) or ""
    other = details[against].by_class if against else None
    others = other.accuracy if other is not None else [None] * len(own.classes)
    rows = zip(own.classes, own.images, own.accuracy, others, strict=True)
    every = [OneClass(name, images, right, beside) for name, images, right, beside in rows if right is not None]
    ordered = sorted(every, key=lambda one: -one.gain)
    half = max(1, min(MOST_EXTREMES, len(ordered) // 2))
    return Classes(
        seeds=own.seeds,
        against=against,
        gains=[one for one in ordered[:half] if one.gain > 0],
        losses=[one for one in ordered[::-1][:half] if one.gain < 0],
        every=every if len(every) <= MOST_CLASSES else [],
        count=len(every),
        error=_error(every, own.seeds),
        mistakes=[
            (own.classes[one.true], own.classes[one.answered], text.decimal(one.share, 1)) for one in own.mistakes
        ],
        matrix=_matrix(own),
        short=max(map(len, own.classes), default=0) <= HEADING,
        calibration=_calibration(own),
        picture=data_uri(png(reliability_picture(own, group.looks[method]), DPI)),
    )


def _comparable(own: ClassByClass, other: Detail) -> bool:
    return other.by_class is not None and other.by_class.classes == own.classes


def _error(classes: Sequence[OneClass], seeds: int) -> str:
    """Return the mean standard error of a class's accuracy from the number of images and seeds that it rests on."""
    shares = [(one.accuracy / 100, one.images * seeds) for one in classes]
    errors = [100 * (share * (1 - share) / count) ** 0.5 for share, count in shares]
    return text.decimal(sum(errors) / len(errors), 1) if errors else text.NONE


def _matrix(found: ClassByClass) -> list[tuple[str, list[Cell]]]:
    rows = []
    for name, counts in zip(found.classes, found.confusion or [], strict=False):
        total = max(sum(counts), 1)
        shares = [100 * count / total for count in counts]
        rows.append(
            (name, [Cell(f"{share:.0f}" if share >= 0.5 else "", min(int(share // 10), 9)) for share in shares])
        )
    return rows


def _calibration(found: ClassByClass) -> str:
    before = f"Expected calibration error {found.before.error:.3f}"
    if found.after is None or found.temperature is None:
        return f"{before}; without validation images no temperature can be fitted."
    return (
        f"{before}; {found.after.error:.3f} once the logits are divided by {found.temperature:.2f}, the temperature "
        "fitted on validation images."
    )


def pretty(value: Any) -> str:
    """Return settings as a reader sees them."""
    return json.dumps(value, indent=1, ensure_ascii=False)


def data_uri(content: bytes) -> str:
    """Return a PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(content).decode()

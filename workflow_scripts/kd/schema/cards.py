"""Method cards: what a method is, what it needs and which settings it takes, readable without torch.

A card is the one source of a method's settings: names, types, defaults, bounds. The pydantic model made from it
(strict, frozen, unknown keys forbidden) checks an experiment before any job starts and is what the method's code
receives.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, create_model

from kd.schema.config import LONGEST_NAME, NAME_PATTERN, Name, Strict
from kd.schema.plain import plain_error
from kd.schema.reading import LOADER
from kd.tools.errors import shown, unknown

CARD_FOLDER = Path(__file__).resolve().parents[3] / "config" / "methods"

MOST_LISTED = 1000
"""Values in a list of a setting."""

TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str}


def _taps(names: list[str]) -> list[str]:
    """Refuse no taps, of which nothing can be learnt, and one listed twice, which would count once in silence."""
    if not names:
        raise ValueError("must name at least one tap, found []")
    if len(set(names)) < len(names):
        raise ValueError(f"must name each tap once, found {shown(names)}")
    return names


class MethodSettings(Strict):
    """Base of the settings models that cards define."""

    # a model made at run time has no source to look for docstrings in: the card's are its descriptions
    model_config = ConfigDict(use_attribute_docstrings=False)

    if TYPE_CHECKING:  # the fields come from the card at run time

        def __getattr__(self, name: str) -> Any: ...


class Length(Strict):
    """What a setting that counts epochs is the length of, and in which epochs it has to fit."""

    of: Literal["ramp", "wait", "stage"]
    """ramp: something rises or falls over them; wait: something is off for them (of a switch: for one while it is off);
    stage: a stage of its own lasts them."""
    within: str = ""
    """The setting that holds the epochs in which they pass; '' is the recipe's."""
    spans: bool = False
    """Whether they pass in the whole chain (epochs_span) where schedules run through it."""
    needs: list[str] = []
    """Settings without which, off or 0, it does nothing."""


class Setting(Strict):
    """One setting of a card."""

    default: Any
    doc: str
    type: Literal["bool", "int", "float", "str", "list[str]", "list[float]", "list[int]"]
    optional: bool = False
    """Whether null is allowed."""
    per_stage: bool = False
    """Whether a list with one value a stage is allowed (methods that run as a chain of stages or of runs)."""
    plan: bool = False
    """Decides which runs there are and is not read by the loss."""
    uncombined: str = ""
    """Why, where it is on, the loss cannot be added to another's."""
    epochs: Length | None = None
    """Where it is a length in epochs, of what: one that does not fit is told at the start (kd.study.lengths)."""
    momentum_offset: bool = False
    """Is taken from and added to the recipe's momentum, which only SGD has."""
    min: float | None = None
    max: float | None = None
    above: float | None = None
    choices: list[str] | None = None

    def annotation(self) -> Any:
        """Return the type that pydantic checks."""
        if self.choices:
            kind: Any = Literal[tuple(self.choices)]
        else:
            name = self.type.removeprefix("list[").removesuffix("]")
            kind = TYPES[name]
            if name in {"int", "float"}:
                kind = Annotated[kind, Field(ge=self.min, le=self.max, gt=self.above)]
            elif name == "str" and not self.plan:
                kind = Annotated[str, Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]
            if name != self.type:
                kind = Annotated[list[kind], Field(max_length=MOST_LISTED)]  # bounds hold for every value
                if name == "str" and not self.plan:
                    kind = Annotated[kind, AfterValidator(_taps)]
        if self.per_stage:
            kind = kind | Annotated[list[kind], Field(max_length=MOST_LISTED)]
        return kind | None if self.optional else kind


class Paper(Strict):
    """Where a method was published."""

    title: str
    authors: str
    year: int
    url: str = ""


class Published(Strict):
    """A published accuracy on the full data set, labelled by the epoch it was taken at."""

    teacher: str
    student: str
    top1: float
    epoch: Literal["last", "best"]
    source: str
    dataset: str = "cifar100"


class Card(Strict):
    """One method card (config/methods/<name>.yaml)."""

    name: Name
    title: str
    family: Literal["baseline", "logits", "features", "relational", "online", "self", "multi-teacher"]
    paper: Paper
    loss: str
    """One line of maths."""
    module: str
    """Where the code is, e.g. kd.methods.kd."""
    teachers: Literal["none", "one", "many"]
    pretrain: bool = False
    """Has a pre-stage that depends on the teacher alone and is a job of its own."""
    chain: bool = False
    """Runs as a chain of alternating stages, each half a job of its own."""
    links: Literal["none", "generations", "assistants"] = "none"
    """Learns from a student of the same experiment, in a chain of runs: one generation after the other, or assistants
    between teacher and student."""
    fixed_teacher: bool = False
    """Learns from what the teachers make of one fixed view of every image, computed once for all methods."""
    alone: bool = True
    """Whether it is a loss of its own, and not a change to the methods that it is combined with."""
    uncombined: str = ""
    """Why its loss cannot be added to another's, if it cannot: what the method does."""
    networks: Literal["any", "stages", "map_sizes", "equal_widths", "pre_activations", "pooled_map"] = "any"
    """Which pairs of student and teacher it can train, in the words of kd.reporting.method_table."""
    mixed_labels: bool = True
    """Whether the loss is defined for MixUp and CutMix batches."""
    settings: dict[str, Setting]
    published: list[Published] = []
    notes: str = ""

    def settings_model(self) -> type[MethodSettings]:
        """Return the pydantic model of this method's settings."""
        return _settings_model(self.name)

    def resolve(self, given: dict[str, Any], where: str) -> MethodSettings:
        """Check settings and fill in defaults; `where` names the place in the configuration."""
        for key in given:
            if key not in self.settings:
                raise unknown(f"setting of method {self.name} in {where}", key, self.settings)
        try:
            return self.settings_model().model_validate(given)
        except ValidationError as error:
            raise plain_error(error, self.settings_model(), where) from error


@cache
def card_names() -> tuple[str, ...]:
    """Return the names of the repository's cards, in order."""
    return tuple(sorted(path.stem for path in CARD_FOLDER.glob("*.yaml")))


def load_cards() -> dict[str, Card]:
    """Read every card of the repository."""
    return {name: card(name) for name in card_names()}


@cache
def card(name: str) -> Card:
    """Return one card, read when first asked for; an unknown name is a UserError with the nearest right one."""
    if name not in card_names():
        raise unknown("method", name, card_names())
    found = _read(CARD_FOLDER / f"{name}.yaml")
    assert found.name == name, "a card is named after its file"
    return found


def _read(path: Path) -> Card:
    try:
        return Card.model_validate(yaml.load(path.read_text(encoding="utf-8"), LOADER))
    except ValidationError as error:
        raise plain_error(error, Card, str(path)) from error


@cache
def _settings_model(name: str) -> type[MethodSettings]:
    fields: dict[str, Any] = {}
    for key, setting in card(name).settings.items():
        fields[key] = (
            setting.annotation(),
            Field(default=setting.default, validate_default=True, description=setting.doc),
        )
    return create_model(f"{name}_settings", __base__=MethodSettings, **fields)

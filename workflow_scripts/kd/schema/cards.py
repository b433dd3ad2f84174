"""Method cards: what a method is, what it needs and which settings it takes, readable without torch.

A card is the one source of a method's settings: names, types, defaults, bounds. The pydantic model made from it
(strict, frozen, unknown keys forbidden) checks an experiment before any job starts and is what the method's code
receives.
"""

from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, create_model, model_validator

from kd.schema.config import LONGEST_NAME, NAME_PATTERN, Name, Range, Strict
from kd.schema.formula import names_in
from kd.schema.plain import plain_error
from kd.schema.reading import LOADER, read_configuration
from kd.tools.errors import UserError, shown, unknown
from kd.tools.own_code import defined_in, is_own

CARD_SUFFIXES = (".yaml", ".yml")

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
    """Settings without which, off or 0, it does nothing; 'KEY=VALUE' is a choice that it is for."""
    recipe: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Epochs of the published training that its default belongs to: what `recipe.schedule_epochs` scales; null: a
    length of its own, which nothing scales."""


class Setting(Strict):
    """One setting of a card."""

    default: Any
    """What it is where an experiment does not give it: the published value where there is one."""
    doc: str
    """Its meaning, a sentence."""
    type: Literal["bool", "int", "float", "str", "list[str]", "list[float]", "list[int]"]
    """What it holds. Text is one of its `choices`, or a name."""
    optional: bool = False
    """Whether null is allowed."""
    per_stage: bool = False
    """Whether a list with one value a stage is allowed (methods that run as a chain of stages or of runs)."""
    half: Literal["teacher", "student", "both", "chain"] = "both"
    """Which half of a stage is told it: one, both, or none where it is the chain's own (cards with `chain`)."""
    plan: bool = False
    """Decides which runs there are and is not read by the loss."""
    uncombined: str = ""
    """Why, where it is on, the loss cannot be added to another's."""
    epochs: Length | None = None
    """Where it is a length in epochs, of what: one that does not fit is told at the start (kd.study.lengths)."""
    momentum_offset: bool = False
    """Is taken from and added to the recipe's momentum, which only SGD has."""
    min: float | None = None
    """Least value, of each where it is a list."""
    max: float | None = None
    """Largest value, likewise."""
    above: float | None = None
    """What each value must exceed."""
    choices: list[str] | None = None
    """Of a text: what is allowed."""
    search: Range | None = None
    """What a search draws it from; null: it keeps its value."""

    @model_validator(mode="after")
    def _scales_a_number(self) -> Self:
        if self.epochs is not None and self.epochs.recipe is not None and self.type not in {"int", "float"}:
            raise ValueError(f"epochs.recipe scales a number of epochs, found type {self.type}")
        if self.search is not None and not self.can_be_searched:
            raise ValueError("search: a list, a length in epochs and what decides which runs there are is not searched")
        return self

    @property
    def can_be_searched(self) -> bool:
        """Whether it may differ from trial to trial of a search: it changes neither runs nor how long they are."""
        return not self.type.startswith("list[") and not self.plan and self.epochs is None and not self.per_stage

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
    """As published."""
    authors: str
    """Initials and names."""
    year: int
    """Of the conference or journal, before that of a preprint."""
    proceedings: str = ""
    """The conference's or book's name; empty of a preprint."""
    journal: str = ""
    """In place of proceedings: the journal's name."""
    url: str = ""
    """A stable one: arXiv, DOI."""

    @model_validator(mode="after")
    def _published_once(self) -> Self:
        if self.proceedings and self.journal:
            raise ValueError("give proceedings or journal, found both")
        return self


class Published(Strict):
    """A published accuracy on the full data set, labelled by the epoch it was taken at."""

    teacher: str
    """Its architecture; none for a student without."""
    student: str
    """Its architecture."""
    top1: float
    """Percent."""
    epoch: Literal["last", "best"]
    """Which epoch it was taken at; best is the best on the test images."""
    source: str
    """Where it was published."""
    dataset: str = "cifar100"
    """What it was measured on."""


class Control(Strict):
    """What a kd row has to have that is to differ from the method in its idea alone (`matched` in an experiment).

    Each is a formula of numbers and settings with + - * / ** and ==, such as `dkd_weight * (alpha + beta)`; a list of
    one value a stage counts as its mean.
    """

    weight: str = ""
    """Sum of the weights of its divergences between predictions, in what kd_weight is: a divergence without a factor
    T^2 counts 1 / T^2. Losses of another kind count nothing; where none is left the control has kd's own weights."""
    ce: str = ""
    """Weight of the classification loss."""
    temperature: str = ""
    """At which those divergences are taken."""
    views: str = "1"
    """Views of each image that student and teacher see."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for formula in filter(None, (self.weight, self.ce, self.temperature, self.views)):
            names_in(formula)
        return self


class Card(Strict):
    """One method card (config/methods/<name>.yaml)."""

    name: Name
    """What experiments call the method; in this folder the name of the file."""
    title: str
    """What tables and pages call it."""
    family: Literal["baseline", "logits", "features", "relational", "online", "self", "multi-teacher"]
    """Where it stands in the overview."""
    paper: Paper
    """Where it was published."""
    loss: str
    """One line of maths."""
    module: str
    """Where the code is, e.g. kd.methods.kd; of a card outside the repository, the name of the file beside it."""
    teachers: Literal["none", "one", "many"]
    """How many of a pair's teachers it learns from: none, the first (or the one that an entry names), or all."""
    pretrain: bool = False
    """Has a pre-stage that depends on the teacher alone and is a job of its own."""
    chain: bool = False
    """Runs as a chain of alternating stages, each half a job of its own."""
    checks: str = ""
    """Of a chain: the module, free of torch, whose `contradictions` tells which settings cannot be meant together."""
    links: Literal["none", "generations", "assistants"] = "none"
    """Learns from a student of the same experiment, in a chain of runs: one generation after the other, or assistants
    between teacher and student."""
    fixed_teacher: bool = False
    """Learns from what the teachers make of one fixed view of every image, computed once for all methods."""
    alone: bool = True
    """Whether it is a loss of its own, and not a change to the methods that it is combined with."""
    uncombined: str = ""
    """Why its loss cannot be added to another's, if it cannot: what the method does."""
    networks: Literal["any", "stages", "map_sizes", "equal_widths", "pre_activations", "pooled_map", "two_heads"] = (
        "any"
    )
    """Which pairs of student and teacher it can train. stages: any, but taps are to be listed where the numbers of
    stages differ; map_sizes: student maps at least half as large as the teacher's; equal_widths: equal widths at the
    taps; pre_activations: networks with features before their activations; pooled_map: CNNs whose classifier reads the
    average of a tapped map; two_heads: students with a second head, as timm's distilled transformers have."""
    mixed_labels: bool = True
    """Whether the loss is defined for MixUp and CutMix batches."""
    compute: Literal["recipe", "most expensive row"] = "recipe"
    """How long it trains: the recipe's epochs, or as many as take the operations of the most expensive row."""
    control: Control = Control()
    """What its control has. Left out, weight is kd_weight, or all weights but that of the classification loss where a
    loss of predictions has none of that name; ce is ce_weight, temperature is temperature, and both are kd's where a
    card has no such setting."""
    settings: dict[str, Setting]
    """By name; each term of the loss has its weight under TERM_weight."""
    forms: dict[str, dict[str, Any]] = {}
    """Of a card with a setting `form`: by a choice of it that is not the default, the settings that have other defaults
    then. What an experiment gives stands above them."""
    published: list[Published] = []
    """Accuracies to stand beside ours."""
    notes: str = ""
    """What a reader of results must know."""

    @model_validator(mode="after")
    def _controls_by_its_settings(self) -> Self:
        for key, formula in self.control:
            strange = names_in(formula) - self.settings.keys() if formula else ()
            if strange:
                raise ValueError(str(unknown(f"setting in control.{key}", min(strange), self.settings)))
        return self

    @model_validator(mode="after")
    def _forms_are_choices(self) -> Self:
        form = self.settings.get("form")
        others = set(form.choices or ()) - {form.default} if form else set()
        for name, defaults in self.forms.items():
            if name not in others:
                raise ValueError(f"forms: {name} is no choice of the setting form beside its default")
            for key in sorted(defaults.keys() - (self.settings.keys() - {"form"})):
                raise ValueError(str(unknown(f"setting in forms.{name}", key, self.settings)))
        return self

    @cached_property
    def settings_model(self) -> type[MethodSettings]:
        """The pydantic model of this method's settings."""
        fields: dict[str, Any] = {
            key: (setting.annotation(), Field(default=setting.default, validate_default=True, description=setting.doc))
            for key, setting in self.settings.items()
        }
        return create_model(f"{self.name}_settings", __base__=MethodSettings, **fields)

    def resolve(self, given: dict[str, Any], where: str) -> MethodSettings:
        """Check settings and fill in defaults; `where` names the place in the configuration."""
        for key in given:
            if key not in self.settings:
                raise unknown(f"setting of method {self.name} in {where}", key, self.settings)
        form = given.get("form")
        defaults = self.forms.get(form, {}) if isinstance(form, str) else {}
        try:
            return self.settings_model.model_validate({**defaults, **given})
        except ValidationError as error:
            raise plain_error(error, self.settings_model, where) from error


@cache
def card_names() -> tuple[str, ...]:
    """Return the names of the repository's cards, in order."""
    return tuple(sorted(path.stem for path in CARD_FOLDER.glob("*.yaml")))


def load_cards() -> dict[str, Card]:
    """Read every card of the repository."""
    return {name: card(name) for name in card_names()}


def is_path(reference: str) -> bool:
    """Whether a card is named by its path: it lies outside the repository's folder."""
    return reference.endswith(CARD_SUFFIXES)


@cache
def card(name: str) -> Card:
    """Return one card by its name, or one outside the repository by its path, read when first asked for.

    Errors: UserError for an unknown name, with the nearest right one, and for a card that cannot be used.
    """
    if is_path(name):
        return _own_card(Path(name))
    if name not in card_names():
        raise unknown("method", name, card_names())
    path = CARD_FOLDER / f"{name}.yaml"
    # the repository's own: a test reads them strictly, a start has no time to
    found = _checked(yaml.load(path.read_text(encoding="utf-8"), LOADER), path)
    assert found.name == name, "a card is named after its file"
    return found


def _checked(content: Any, path: Path) -> Card:
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        raise plain_error(error, Card, str(path)) from error


def _own_card(path: Path) -> Card:
    """Return a card outside the repository, its module being a file beside it."""
    found = _checked(read_configuration(path), path)
    if found.name in card_names():
        raise UserError(f"{path}: the repository has a card named {found.name}: give this one another name")
    if found.chain:
        raise UserError(f"{path}: chain: only a card of the repository runs as a chain of half-stages")
    if not is_own(found.module) or Path(found.module).name != found.module:
        raise UserError(f"{path}: module must be a file beside the card, as in {found.name}.py, found {found.module}")
    module = path.parent / found.module
    defined_in(module)
    own = found.model_copy(update={"module": str(module)})
    try:
        own.settings_model()
    except ValidationError as error:
        raise UserError(f"{path}: settings: {plain_error(error, own.settings_model, 'default')}") from error
    return own

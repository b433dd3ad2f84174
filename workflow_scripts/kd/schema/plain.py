"""What pydantic found wrong, in plain English: the key as the user wrote it, what is allowed there, what was found."""

import types
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kd.tools.errors import UserError, did_you_mean, one_of, shown, unknown

QUOTES = " (yes, no, on and off are read as true or false: put quotes around what is text)"


def plain_error(error: ValidationError, model: type[BaseModel], where: str) -> UserError:
    """Return the first problem of a settings model as one sentence; `where` names its place in the configuration."""
    problems = [_Problem(one, model, where) for one in error.errors(include_url=False)]
    # a misspelt key also makes the right one missing: the misspelling is what helps
    misspelt = next((one for one in problems if one.kind == "extra_forbidden"), None)
    if misspelt is not None:
        place = misspelt.owner_key
        return unknown(f"key in {place}" if place else "key", misspelt.loc[-1], misspelt.owner.model_fields)
    # every form that a value may have complains about it: the one that got furthest with the fewest faults was meant
    rivals = [one for one in problems if one.field == problems[0].field]
    faults = Counter(one.loc[:-1] for one in rivals)
    meant = max(rivals, key=lambda one: (len(one.loc), -faults[one.loc[:-1]], not one.kind.endswith("_type")))
    return UserError(meant.sentence())


class _Problem:
    """One of pydantic's errors, and what the settings model says about its place."""

    def __init__(self, problem: Any, model: type[BaseModel], where: str) -> None:
        self.kind: str = problem["type"]
        self.loc: tuple[int | str, ...] = problem["loc"]
        self.found: Any = problem["input"]
        self.message: str = problem["msg"].removeprefix("Value error, ")
        self.owner = model
        self.owner_key = where
        self.field = self.key = where
        """The key; `field` is that of the setting as a whole, where it is one that may have several forms."""
        self.one_form = False
        """Whether it is within keys and values that are one of several forms of `field`."""
        self.allowed: Any = model
        self.constraints: list[Any] = []
        self._follow()

    def sentence(self) -> str:
        """Return the key, what is allowed and what was found."""
        prefix = f"{self.key}: " if self.key else ""
        if self.kind == "value_error":
            about_value = not isinstance(self.found, dict) and "found" not in self.message
            return f"{prefix}{self.message}{f', found {shown(self.found)}' if about_value else ''}"
        if self.kind == "missing":
            return f"{prefix}is missing: give {self._wanted()}"
        if self.kind == "invalid_key" or self.loc[-1:] == ("[key]",):
            return f"{prefix}{self._bad_key()}"
        return f"{prefix}must be {self._wanted()}, found {shown(self.found)}{self._hint()}"

    def _follow(self) -> None:
        """Walk from the model along pydantic's path, which also names the forms of a value that it tried."""
        for part in self.loc[: -2 if self.loc[-1:] == ("[key]",) else None]:
            forms = [form for form in _forms(self.allowed) if form is not type(None)]
            if len(forms) > 1:
                form = _tried(str(part), forms)
                if form is None:
                    return
                self.allowed = form
                self.one_form = _is_model(_unwrapped(form)[0])
                continue
            if not self._step(forms[0], part):
                return

    def _step(self, form: Any, part: int | str) -> bool:
        """Go one key or one place in a list further; False where the path ends before it."""
        form, _ = _unwrapped(form)
        if _is_model(form):
            self.owner, self.owner_key = form, self.key
            field = form.model_fields.get(part)
            if field is None:
                self.allowed = Any
                return False
            self.allowed, self.constraints = annotated(field), []
            self.key = f"{self.key}.{part}" if self.key else str(part)
            self.field = self.field if self.one_form else self.key
            return True
        inner = [kind for kind in get_args(form) if kind is not Ellipsis]
        if isinstance(part, int) and get_origin(form) in {list, tuple}:
            self.key += f"[{part}]"
            self.allowed = inner[min(part, len(inner) - 1)]
            return True
        if get_origin(form) is dict:
            self.key = self.field = f"{self.key}.{part}"
            self.allowed = inner[-1]
            return True
        return False

    def _wanted(self) -> str:
        return described(self.allowed)

    def _bad_key(self) -> str:
        name = self.loc[-2] if self.loc[-1] == "[key]" else self.loc[-1]
        if not isinstance(self.found, str):
            return f"keys must be text, found {shown(self.found)}{QUOTES if isinstance(self.found, bool) else ''}"
        return f"a key must be {NAME_IN_WORDS}, found {shown(str(name))}"

    def _hint(self) -> str:
        if isinstance(self.found, bool) and "text" in self._wanted():
            return QUOTES
        if isinstance(self.found, str):
            choices = [str(value) for form in _forms(self.allowed) for value in _choices(form)]
            near = did_you_mean(self.found, choices)
            return f": {near.strip()}" if near else ""
        return ""


NAME_IN_WORDS = (
    "a name of 1 to 100 letters a-z and A-Z, digits, '_' and '.', the first a letter or a digit, the last no '.'"
)


def described(kind: Any) -> str:
    """Return what a setting may be, in words: its type, its bounds, its choices."""
    words = [_described(form) for form in _forms(kind)]
    return one_of(list(dict.fromkeys(words)))


def _described(form: Any) -> str:
    kind, constraints = _unwrapped(form)
    if kind is type(None):
        return "null"
    if get_origin(kind) is Literal:
        return one_of([shown(value) for value in get_args(kind)])
    if get_origin(kind) in {list, tuple}:
        return _described_list(kind, constraints)
    if kind is dict or get_origin(kind) is dict or _is_model(kind):
        return "keys and values"
    if kind in {int, float}:
        return f"a {'whole ' if kind is int else ''}number{_range(kind, constraints)}"
    if kind is str:
        most = _limit(constraints, "max_length")
        words = "text" if most is None else f"text of 1 to {most} characters"
        return NAME_IN_WORDS if _limit(constraints, "pattern") is not None else words
    return {bool: "true or false"}.get(kind, "a value")


def _described_list(kind: Any, constraints: Sequence[Any]) -> str:
    inner = [one for one in get_args(kind) if one is not Ellipsis]
    least, most = _limit(constraints, "min_length"), _limit(constraints, "max_length")
    if get_origin(kind) is tuple:
        count = f" of {len(inner)}"
    elif most is not None and least:
        count = f" of {least} to {most}"
    elif most is not None:
        count = f" of at most {most}"
    else:
        count = f" of {least} or more" if least else ""
    return f"a list{count}, each {described(inner[0])}" if inner else f"a list{count}"


def _range(kind: type, constraints: Sequence[Any]) -> str:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "and below"}
    limits = {name: _limit(constraints, name) for name in words}
    stated = [f"{words[name]} {_number(limit)}" for name, limit in limits.items() if limit is not None]
    if limits["ge"] is None and limits["gt"] is None:
        stated = [words.removeprefix("and ") for words in stated]
    if [name for name, limit in limits.items() if limit is not None] == ["ge"]:
        stated = [f"of at least {_number(limits['ge'])}"]
    return f" {' '.join(stated)}" if stated else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:g}"


def _limit(constraints: Sequence[Any], name: str) -> Any:
    found = [getattr(one, name) for one in constraints if getattr(one, name, None) is not None]
    return found[-1] if found else None


def annotated(field: FieldInfo) -> Any:
    """Return a field's type with its bounds, which pydantic keeps apart."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _unwrapped(kind: Any) -> tuple[Any, list[Any]]:
    """Return a type without its bounds, and the bounds."""
    constraints: list[Any] = []
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        constraints += [inner for one in more for inner in (one.metadata if isinstance(one, FieldInfo) else [one])]
    return kind, constraints


def _forms(kind: Any) -> Iterator[Any]:
    """Yield the forms that a value may have; bounds of a union belong to each of its forms."""
    bare, constraints = _unwrapped(kind)
    if get_origin(bare) in {Union, types.UnionType}:
        for option in get_args(bare):
            yield from _forms(Annotated[option, *constraints] if constraints and option is not type(None) else option)
    else:
        yield kind


def _tried(label: str, forms: Sequence[Any]) -> Any:
    """Return the list or the keys with values that pydantic's label means, None for forms without an inside."""
    models = [form for form in forms if _is_model(_unwrapped(form)[0]) and _unwrapped(form)[0].__name__ == label]
    if models:
        return models[0]
    origin = {"list": list, "dict": dict}.get(label[:4])
    bare = [_unwrapped(form)[0] for form in forms]
    fitting = [
        form for form, kind in zip(forms, bare, strict=True) if origin is not None and get_origin(kind) is origin
    ]
    if len(fitting) > 1:
        inner = label.removesuffix("]").split("[")[1].rpartition("-")[2]
        fitting = [form for form in fitting if _unwrapped(get_args(_unwrapped(form)[0])[-1])[0].__name__ == inner]
    return fitting[0] if fitting else None


def _choices(form: Any) -> tuple[Any, ...]:
    kind, _ = _unwrapped(form)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)

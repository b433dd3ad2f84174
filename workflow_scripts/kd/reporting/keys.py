"""The keys of a settings model as a Markdown table: default, what is allowed, meaning; what generated pages share."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kd.schema.plain import NAME_IN_WORDS, annotated, described

KEYS_AND_VALUES = "keys and values"


def keys_table(model: type[BaseModel], place: Callable[[str], str | None]) -> str:
    """Return the table of a model's keys; `place` is the anchor of the section on a key's own keys, if there is one.

    A key's meaning is its docstring: one without is an AssertionError.
    """
    rows = [key_row(key, field, place(key)) for key, field in model.model_fields.items()]
    return table(("Key", "Default", "Allowed", "Meaning"), rows)


def key_row(key: str, field: FieldInfo, place: str | None) -> tuple[str, ...]:
    """Return one key's row."""
    assert field.description, f"{key} has no docstring"
    words = described(annotated(field)).replace(NAME_IN_WORDS, "a name")
    linked = words.replace(KEYS_AND_VALUES, f"[{KEYS_AND_VALUES}](#{place})") if place else words
    return (f"`{key}`", default(field), escaped(linked), escaped(field.description))


def default(field: FieldInfo) -> str:
    """Return what a key is where the file does not have it."""
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        given = field.default.model_dump(exclude_defaults=True)
        return f"`{shown(given)}`" if given else "its defaults"
    return f"`{shown(field.default)}`"


def shown(value: Any) -> str:
    """Return a default as it is written in YAML."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict) and value:
        return f"{{{', '.join(f'{key}: {shown(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if value == "":
        return "''"
    return f"{value:g}" if isinstance(value, float) else str(value)


def escaped(text: str) -> str:
    """Return text that can stand in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

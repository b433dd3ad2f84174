"""The manual of experiment files, config/README.md, and their JSON schema for editors, made from the settings models.

`python3 envs/task.py docs` writes both; a test keeps them in step. What no model says stands in manual.md.j2.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kd.reporting.keys import escaped, keys_table, table
from kd.schema import config
from kd.schema.cards import CARD_FOLDER, Card, load_cards
from kd.schema.plain import NAME_IN_WORDS
from kd.study.continual import Continual, Strategy
from kd.tools.files import atomic_write

README = CARD_FOLDER.parent / "README.md"
SCHEMA = CARD_FOLDER.parent / "experiment.schema.json"
TEMPLATE = Path(__file__).with_name("manual.md.j2")

SECTIONS: dict[str, type[BaseModel]] = {
    "experiment": config.Experiment,
    "datasets": config.DatasetSettings,
    "split_ratios": config.SplitRatios,
    "models": config.ModelSettings,
    "classes": config.ClassShare,
    "pairs": config.Pair,
    "recipe": config.Recipe,
    "augmentation": config.Augmentation,
    "randaugment": config.RandAugment,
    "report": config.Reporting,
    "analysis": config.Analysis,
    "search": config.Search,
    "search-recipe": config.RecipeRanges,
    "range": config.Range,
    "continual": Continual,
    "strategies": Strategy,
}
"""By the key that holds them, which is the heading of the section too."""

ELSEWHERE = {"teacher_recipe": "recipe", "methods": "methods"}
"""Keys whose values are told in a section of another name, or in one that no model makes."""

WITHIN = {
    ("search", "recipe"): "search-recipe",
    ("search", "ranges"): "range",
    **{("search-recipe", key): "range" for key in config.RecipeRanges.model_fields},
}
"""Keys whose values are told in a section of another name than those of the same name elsewhere."""

ENTRY = {
    "method": "A [card](methods/README.md); its settings stand beside it.",
    "card": "In place of `method`: the path of a card of your own, its module a file beside it "
    "([an example](experiments/own_code.yaml)).",
    "combine": "In place of `method`: two methods or more whose losses are added, each a card's name or "
    "`{method: CARD, SETTING: VALUE}` (or `{card: PATH}`). A combination needs a `name`.",
    "name": "Of the row in the tables and of the runs' folder; without one, the card's.",
    "teacher": "The one of the pair's teachers that a method with one teacher takes; without one, the first.",
    "recipe": "[Recipe keys](#recipe) that differ for this method.",
    "matched": "true: add NAME_matched, [its control](experiments/README.md#what-the-idea-gave): a kd row of the same "
    "weight of distillation, number of views and training FLOPs.",
    "compute_of": "Name of another row: train as many whole epochs as come nearest to its training FLOPs, with the "
    "schedule stretched over them, in place of the recipe's.",
}
"""The keys of an entry of `methods` beside the settings of its card, with their meaning."""

OF_A_ROW = [key for key in ENTRY if key not in {"method", "card", "combine"}]
"""Those that do not say which method it is."""


def manual() -> str:
    """Return the whole page."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(keys=keys, entry=entry_table(), name=NAME_IN_WORDS)


def keys(section: str) -> str:
    """Return the table of the keys of a section."""
    return keys_table(SECTIONS[section], lambda key: place(WITHIN.get((section, key), key))).rstrip()


def place(key: str) -> str | None:
    """Return the heading under which the keys of a key's values stand."""
    named = ELSEWHERE.get(key, key)
    return named if named in SECTIONS or named in ELSEWHERE else None


def entry_table() -> str:
    """Return the table of the keys that every entry of `methods` may have."""
    return table(("Key", "Meaning"), [(f"`{key}`", escaped(text)) for key, text in ENTRY.items()]).rstrip()


# --- the schema --------------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 7) of experiment files, with the settings of every card.

    It knows keys, types and bounds; what cannot be meant together the workflow alone refuses.
    """
    whole, inner = (_of_model(model) for model in (config.Experiment, Continual))
    parts = {**whole.pop("definitions"), **inner.pop("definitions"), "Continual": inner}
    parts["RecipeChanges"] = {key: value for key, value in parts["Recipe"].items() if key != "required"}
    for name in ("ModelSettings", "Strategy"):
        parts[name]["properties"]["recipe"] |= _defined("RecipeChanges")
    cards = load_cards()
    parts |= {f"entry_{key}": made for key, made in _entry_keys(cards).items()}
    parts |= {f"method_{name}": _method(card) for name, card in cards.items()}
    parts["Method"] = {"anyOf": [{"enum": list(cards)}, _entry(cards)]}
    whole["properties"]["methods"]["items"] = _defined("Method")
    whole["properties"]["continual"]["anyOf"] = [_defined("Continual"), {"type": "null"}]
    return _tidy({"$schema": "http://json-schema.org/draft-07/schema#", **whole, "definitions": parts})


def _defined(name: str) -> dict[str, Any]:
    return {"$ref": f"#/definitions/{name}"}


def _of_model(model: type[BaseModel]) -> dict[str, Any]:
    made = model.model_json_schema(ref_template="#/definitions/{model}")
    return {**made, "definitions": made.pop("$defs")}


def _entry_keys(cards: Mapping[str, Card]) -> dict[str, Any]:
    """Return the schemas of the keys of ENTRY."""
    made: dict[str, dict[str, Any]] = {
        "method": {"enum": list(cards)},
        "card": {"type": "string", "pattern": r"\.ya?ml$"},
        "combine": {"type": "array", "minItems": 2, "items": _defined("Method")},
        "name": {"type": "string", "pattern": config.NAME_PATTERN, "maxLength": config.LONGEST_NAME},
        "teacher": {"type": "string"},
        "recipe": {"allOf": [_defined("RecipeChanges")]},
        "matched": {"type": "boolean"},
        "compute_of": {"type": "string", "pattern": config.NAME_PATTERN, "maxLength": config.LONGEST_NAME},
    }
    return {key: {**made[key], "description": text} for key, text in ENTRY.items()}


def _method(card: Card) -> dict[str, Any]:
    """Return the schema of an entry whose method this is."""
    method = {"const": card.name, "description": f"{card.title}: {card.loss}"}
    settings = card.settings_model.model_json_schema()["properties"]
    properties = {"method": method, **_entry_properties(*OF_A_ROW), **settings}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _entry(cards: Mapping[str, Card]) -> dict[str, Any]:
    """Return the schema of an entry with settings: which it may have depends on its method."""
    combination = {
        "properties": _entry_properties("combine", *OF_A_ROW),
        "additionalProperties": False,
        "required": ["combine", "name"],
    }
    named = [{"if": {"properties": {"method": {"const": name}}}, "then": _defined(f"method_{name}")} for name in cards]
    return {
        "type": "object",
        "properties": _entry_properties(*ENTRY),
        "if": {"required": ["method"]},
        "then": {"allOf": named},
        "else": {"if": {"required": ["card"]}, "then": {"not": {"required": ["combine"]}}, "else": combination},
    }


def _entry_properties(*keys: str) -> dict[str, Any]:
    return {key: _defined(f"entry_{key}") for key in keys}


def _tidy(part: Any) -> Any:
    """Return a schema as draft 7 has it, without titles that say what the keys say."""
    if isinstance(part, list):
        return [_tidy(inner) for inner in part]
    if not isinstance(part, dict):
        return " ".join(part.split()) if isinstance(part, str) else part
    renamed = {"items" if key == "prefixItems" else key: value for key, value in part.items()}
    return {key: _tidy(value) for key, value in renamed.items() if not (key == "title" and isinstance(value, str))}


def write(readme: Path = README, schema_file: Path = SCHEMA) -> None:
    """Write the page and the schema."""
    atomic_write(readme, manual())
    atomic_write(schema_file, schema_text())


def schema_text() -> str:
    """Return the schema as its file holds it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write()

"""Reading a configuration file so that nothing in it is taken for something else, or dropped in silence.

PyYAML, which Snakemake reads with, follows YAML 1.1: of two equal keys the last one counts, 010 is eight, 1:30 is
ninety, `no` is false. What a user cannot have meant is refused here, with the place in the file.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kd.tools.errors import UserError, printable, shown

# The same YAML ten times faster where PyYAML was built with libyaml: every start of Snakemake reads cards.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

DEEPEST, MOST_VALUES, LONGEST_TEXT, LONGEST_KEY = 30, 500_000, 20_000, 255
"""Bounds that no experiment comes near: lists within lists, values in all, characters of a text and of a key."""

EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")
"""A number with an exponent, as YAML 1.2 reads it."""
OCTAL = re.compile(r"[-+]?0[0-7_]+")
SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
TEXTS = {"experiment", "description", "name", "root", "archives", "class_list", "class_subset", "cache"}
"""Keys of values that stay text whatever they look like: a class folder may be named 1e4."""
TEMPLATE_KEY = "__use_yte__"
MERGE = "tag:yaml.org,2002:merge"


def read_configuration(path: str | Path) -> dict[str, Any]:
    """Read a file of keys and values, YAML or JSON; a UserError says what it holds that cannot be meant."""
    text = _text(path)
    try:
        content = _json(text, str(path))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        content = _yaml(text, str(path))
    except RecursionError as error:
        raise UserError(f"{path}: lists and keys lie more than {DEEPEST} deep in each other") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, found {_kind(content)}")
    if TEMPLATE_KEY in content:
        raise UserError(
            f"{path}: key {TEMPLATE_KEY} makes Snakemake run code out of the file before anything looks at it, which "
            "an experiment never needs: write the values themselves"
        )
    return content


def plain_values(value: Any, where: str = "") -> Any:
    """Return content as text, finite numbers, booleans, nulls, lists and keys with values; all else is a UserError.

    Numbers in exponent form become floats, except as values of TEXTS: YAML 1.1 wants a point and a signed exponent and
    takes 1e-4 for text.
    """
    return _Values().plain(value, where, text=False)


def read_values(value: Any) -> Any:
    """Return what --config gave as a file would hold it: Snakemake makes lists and keys of text of it."""
    if isinstance(value, Mapping):
        return {key: inner if key in TEXTS else read_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [read_values(inner) for inner in value]
    if not isinstance(value, str) or not value.strip() or set(value) & set("[]{}#&*!|>:\n"):
        return value
    return _yaml(value, "--config")


class _Values:
    """One walk through the content of a file."""

    def __init__(self) -> None:
        self.left = MOST_VALUES
        self.depth = 0

    def plain(self, value: Any, where: str, text: bool) -> Any:
        """Return a value and all within it as plain ones; `text` says that numbers in exponent form stay text."""
        self.left -= 1
        if self.left < 0:
            raise UserError(f"the configuration holds more than {MOST_VALUES} values")
        if isinstance(value, Mapping | list | tuple):
            if self.depth >= DEEPEST:
                raise UserError(
                    f"{where.split('.')[0][:99]}: lists and keys lie more than {DEEPEST} deep in each other"
                )
            self.depth += 1
            found = self._mapping(value, where, text) if isinstance(value, Mapping) else self._list(value, where, text)
            self.depth -= 1
            return found
        return _scalar(value, where, text)

    def _mapping(self, value: Mapping[Any, Any], where: str, text: bool) -> dict[str, Any]:
        found = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where or 'the configuration'}: keys must be text, found {_scalar_shown(key)}")
            if len(key) > LONGEST_KEY or key != key.strip() or not key.isprintable() or not key:
                raise UserError(f"{where or 'the configuration'}: {shown(key)} cannot be a key")
            found[key] = self.plain(inner, f"{where}.{key}" if where else key, text or key in TEXTS)
        return found

    def _list(self, value: Any, where: str, text: bool) -> list[Any]:
        return [self.plain(inner, f"{where}[{i}]", text) for i, inner in enumerate(value)]


def _scalar(value: Any, where: str, text: bool) -> Any:
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise UserError(f"{where}: text of at most {LONGEST_TEXT} characters, found {len(value)}")
        bad = next((c for c in value if c == "\0" or "\ud800" <= c <= "\udfff"), None)
        if bad is not None:
            raise UserError(f"{where}: text may not hold the character '{printable(bad)}'")
        if text or not EXPONENT.fullmatch(value):
            return value
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: must be a finite number, found {value}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{where}: must be a number of at most 19 digits, found {shown(value)}")
    if value is not None and not isinstance(value, bool | int | float):
        raise UserError(f"{where}: must be text, a number, true or false, found {_scalar_shown(value)}")
    return value


def _scalar_shown(value: Any) -> str:
    if isinstance(value, bool):
        return f"{shown(value)} (yes, no, on and off are read as true or false: put quotes around what is text)"
    if isinstance(value, int | float | None):
        return shown(value)
    kind = _kind(value)
    return f"{kind} {shown(value)} (put quotes around what is text)" if kind == "the date" else kind


def _kind(value: Any) -> str:
    kinds = {"NoneType": "nothing", "list": "a list", "str": "text", "date": "the date", "datetime": "the date"}
    kinds |= {"bytes": "bytes", "set": "a set", "int": "a number", "float": "a number", "bool": "true or false"}
    return kinds.get(type(value).__name__, "a value of another kind")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"configuration file {shown(str(path))} does not exist") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise UserError(f"cannot read the configuration file {shown(str(path))}: {reason}") from error


def _json(text: str, path: str) -> Any:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return the pairs of one place as a mapping."""
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise UserError(f"{path}: key {shown(twice)} stands twice in one place: drop one of them")
        return found

    return json.loads(text, object_pairs_hook=distinct)


def _yaml(text: str, path: str) -> Any:
    loader = None
    try:
        _check_depth(text, path)
        loader = LOADER(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, path, (), set())
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = printable(error.problem or "")
        tab = ": tabs cannot indent, use spaces" if "\t" in text else ""
        raise UserError(f"{path}{line}: is not valid YAML ({problem}){tab}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {printable(' '.join(str(error).split()))}") from error
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        # of the many ways in which a value with a tag can fail to be what the tag says
        raise UserError(f"{path}: holds a value that cannot be read ({printable(str(error))[:80]})") from error
    finally:
        if loader is not None:
            loader.dispose()


def _check_depth(text: str, path: str) -> None:
    """Refuse lists within lists beyond measure before they are built: libyaml's builder would end the process."""
    depth = 0
    for event in yaml.parse(text, LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = f", line {event.start_mark.line + 1}" if event.start_mark else ""
            raise UserError(f"{path}{line}: lists and keys lie more than {DEEPEST} deep in each other")


def _check_node(node: yaml.Node, path: str, around: tuple[yaml.Node, ...], seen: set[int]) -> None:
    """Refuse what YAML 1.1 reads in another way than it is meant; `around` are the nodes that this one lies in."""
    line = f"{path}, line {node.start_mark.line + 1}"
    if any(node is outer for outer in around):
        raise UserError(f"{line}: an alias leads back to the list or keys that it stands in")
    if id(node) in seen:
        return  # an alias of what was looked at already
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node, line)
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node, path)
    for inner in _within(node):
        _check_node(inner, path, (*around, node), seen)
    seen.add(id(node))


def _within(node: yaml.Node) -> Iterator[yaml.Node]:
    for inner in node.value if isinstance(node, yaml.CollectionNode) else ():
        yield from inner if isinstance(inner, tuple) else (inner,)


def _check_keys(node: yaml.MappingNode, path: str) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        line = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{line}: keys must be text, found a list or keys and values")
        if key.tag != MERGE and key.value in seen:
            raise UserError(f"{line}: key {shown(key.value)} stands twice in one place: drop one of them")
        seen.add(key.value)


def _check_scalar(node: yaml.ScalarNode, line: str) -> None:
    if node.style:
        return  # in quotes
    value = printable(node.value)
    if node.tag.endswith(":int") and OCTAL.fullmatch(node.value):
        plain = node.value.lstrip("+-0_") or "0"
        raise UserError(f"{line}: {value} is read as a number to base 8: write {plain}, or '{value}' for text")
    if node.tag.endswith((":int", ":float")) and SEXAGESIMAL.fullmatch(node.value):
        raise UserError(f"{line}: {value} is read as a number to base 60: write '{value}' for text")

"""Formulas of numbers and settings that cards hold, read without running anything."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from kd.tools.errors import UserError

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
NULL = "null"
ALLOWED = "numbers, 'texts', null and settings with + - * / ** == and brackets"


def names_in(formula: str) -> set[str]:
    """Return the settings that a formula names. Errors: ValueError for what is no formula."""
    tree = _tree(formula)
    _value(tree, None)
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {NULL}


def evaluate(formula: str, settings: Mapping[str, Any]) -> float:
    """Return a formula's value for settings: a list counts as its mean, null and what is divided by nothing as 0.

    `setting == null` is 1 of a setting that is null, and 0 of one that is 0.

    Errors: UserError where the settings are no numbers, or their value is none.
    """
    try:
        return float(_value(_tree(formula), settings))
    except ZeroDivisionError:
        return 0.0
    except (TypeError, OverflowError) as error:
        raise UserError(f"the formula '{formula}' has no value for these settings: {error}") from error


def _tree(formula: str) -> ast.expr:
    try:
        return ast.parse(formula, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"must be a formula of {ALLOWED}, found '{formula}'") from error


def _value(node: ast.expr, settings: Mapping[str, Any] | None) -> Any:
    """Return the value of a part of a formula; without settings it is looked at only."""
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, settings), _value(node.right, settings)
        return 0.0 if settings is None else _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, settings)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
        sides = (node.left, node.comparators[0])
        if any(_is_null(side) for side in sides):
            return 0.0 if settings is None else float(all(_is_null(side, settings) for side in sides))
        left, right = (_value(side, settings) for side in sides)
        return 0.0 if settings is None else float(left == right)
    if isinstance(node, ast.Name):
        return 0.0 if settings is None else _setting(settings[node.id])
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return 0.0 if settings is None else node.value
    raise ValueError(f"must be a formula of {ALLOWED}, found '{ast.unparse(node)}'")


def _is_null(node: ast.expr, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether a part of a formula is null as it stands, or a setting that is."""
    return isinstance(node, ast.Name) and (node.id == NULL or (settings is not None and settings[node.id] is None))


def _setting(value: Any) -> Any:
    if isinstance(value, list):
        return sum(value) / len(value) if value else 0.0
    return 0.0 if value is None else value

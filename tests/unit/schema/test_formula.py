"""Formulas in cards: numbers and settings, and nothing that runs."""

import pytest

from kd.schema.formula import evaluate, names_in
from kd.tools.errors import UserError

SETTINGS = {"a": 2, "b": 0.5, "on": True, "form": "released", "listed": [1.0, 3.0], "none": None, "empty": []}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("3", 3.0),
        ("a * (b + 1)", 3.0),
        ("a - b / 4", 1.875),
        ("a ** 2", 4.0),
        ("-b", -0.5),
        ("on * a", 2.0),
        ("(form == 'released') * a", 2.0),
        ("(form == 'described') * a", 0.0),
        ("listed", 2.0),
        ("none + empty", 0.0),
        ("a / none", 0.0),
    ],
)
def test_a_formula_has_the_value_that_it_says(formula, value):
    assert evaluate(formula, SETTINGS) == value


def test_names_are_those_of_settings():
    assert names_in("a * (b + 1) ** (form == 'x')") == {"a", "b", "form"}
    assert names_in("2 / 3") == set()


@pytest.mark.parametrize(
    "formula",
    ["", "a +", "__import__('os')", "a.b", "a[0]", "a if b else 1", "[a]", "a < b", "lambda: 1", "a\nb", "~a"],
)
def test_anything_else_is_refused(formula):
    with pytest.raises(ValueError, match="must be a formula of numbers"):
        names_in(formula)


@pytest.mark.parametrize("formula", ["form + 1", "(0 - 1) ** b", "(a * 10) ** (a * 1000)", "listed / form"])
def test_what_has_no_value_is_a_sentence(formula):
    with pytest.raises(UserError, match="has no value for these settings"):
        evaluate(formula, {**SETTINGS, "a": 2.0})

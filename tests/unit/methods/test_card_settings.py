"""Wrong settings of a method are one sentence that names the key, what was found and what is allowed."""

import pytest

from kd.schema.cards import card
from kd.tools.errors import UserError


@pytest.mark.parametrize(
    ("name", "settings", "parts"),
    [
        ("kd", {"temperature": "four"}, ["temperature", "number", "'four'"]),
        ("kd", {"temperature": 0.0}, ["temperature", "a number above 0", "0.0"]),
        ("kd", {"kd_weight": -0.5}, ["kd_weight", "a number from 0", "-0.5"]),
        ("kd", {"temprature": 2.0}, ["'temprature'", "did you mean 'temperature'?", "method kd"]),
        ("hint", {"two_stage": "yes"}, ["two_stage", "true or false", "'yes'"]),
        ("hint", {"hint_epochs": 2.5}, ["hint_epochs", "whole number", "2.5"]),
        ("hint", {"student_taps": "stage2"}, ["student_taps", "list", "'stage2'"]),
        ("at", {"form": "papers"}, ["form", "'code' or 'paper'", "'papers'"]),
        ("crd", {"negatives": 0}, ["negatives", "a whole number from 1", "0"]),
        ("crd", {"momentum": 1.5}, ["momentum", "a number from 0 to 1", "1.5"]),
        ("dml", {"peers": 0}, ["peers", "a whole number from 1 to 16", "0"]),
        ("ft", {"paraphraser_epoch": 3}, ["did you mean 'paraphraser_epochs'?"]),
    ],
)
def test_wrong_settings_are_named(name, settings, parts):
    with pytest.raises(UserError) as caught:
        card(name).resolve(settings, "methods.mine")
    message = str(caught.value)
    assert "methods.mine" in message
    assert "\n" not in message
    for part in parts:
        assert part in message

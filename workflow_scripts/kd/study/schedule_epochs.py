"""What a method's card counts in epochs of its published recipe, in epochs of the training at hand."""

import math
from collections.abc import Mapping
from typing import Any

from kd.schema.cards import Length, Setting, card
from kd.schema.config import Recipe

FIELD = 240
"""Epochs of the recipe that most cards count in, and that `recipe.schedule_epochs` names them by."""


def in_epochs_of(recipe: Recipe, reference: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a card with each length in epochs of its recipe (Length.recipe) scaled to a training.

    A length of e epochs in a card that counts in r of them is the share e * (240 / r) / schedule_epochs of all epochs.
    One that does nothing stays as it is, and so do all without recipe.schedule_epochs.
    """
    if recipe.schedule_epochs is None:
        return settings
    counted = {
        key: one
        for key, one in card(reference).settings.items()
        if one.epochs and one.epochs.recipe and counts(settings, one.epochs)
    }
    return settings | {key: _scaled(settings[key], recipe, one) for key, one in counted.items()}


def _scaled(value: Any, recipe: Recipe, setting: Setting) -> Any:
    if isinstance(value, list):
        return [_scaled(one, recipe, setting) for one in value]
    assert recipe.schedule_epochs is not None, "asked for by it"
    assert setting.epochs is not None, "only lengths are scaled"
    assert setting.epochs.recipe is not None, "only those of a recipe"
    if not value:  # off, or null
        return value
    length = value * recipe.epochs * FIELD / (recipe.schedule_epochs * setting.epochs.recipe)
    # whole epochs, halves up, at least one: what is on stays on
    return length if setting.type == "float" else max(1, math.floor(length + 0.5))


def counts(settings: Mapping[str, Any], length: Length) -> bool:
    """Whether all that a length needs is on, or is what it is for."""
    needs = [need.partition("=") for need in length.needs]
    return all(settings[other] == choice if choice else _on(settings[other]) for other, _, choice in needs)


def _on(value: Any) -> bool:
    return max(value) > 0 if isinstance(value, list) else bool(value)

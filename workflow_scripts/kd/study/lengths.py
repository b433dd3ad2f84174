"""Lengths in epochs that do not fit the training: warm-ups that never end, first stages longer than all the rest.

They are allowed, for a short trial of a long recipe has them, and told before the first job.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from kd.schema.cards import Length, card
from kd.schema.config import Experiment, Recipe
from kd.study.chain import HALVES, stage_settings, stages
from kd.study.experiment import merged_recipe, model_settings, student_recipe, variants
from kd.study.variant import Variant


def lengths_beyond(experiment: Experiment) -> list[str]:
    """Return one sentence for each length that does not fit, each once."""
    found = [*_of_recipe(experiment.recipe, "recipe")]
    if experiment.teacher_recipe is not None:
        found += _of_recipe(experiment.teacher_recipe, "teacher_recipe")
    base = experiment.teacher_recipe or experiment.recipe
    for name in dict.fromkeys(name for pair in experiment.pairs for name in pair.teachers):
        own = model_settings(experiment, name).recipe
        found += _of_recipe(merged_recipe(base, own, ""), f"models.{name}.recipe") if own else []
    for variant in variants(experiment):
        for student in dict.fromkeys(pair.student for pair in experiment.pairs):
            recipe = student_recipe(experiment, student, variant)
            found += _of_recipe(recipe, f"methods.{variant.name}: recipe") if recipe != experiment.recipe else []
            found += _of_variant(variant, recipe)
    return list(dict.fromkeys(found))


def _of_recipe(recipe: Recipe, where: str) -> Iterator[str]:
    """Yield what a recipe plans for epochs that it does not have."""
    beyond = [f"{milestone:g}" for milestone in recipe.milestones if milestone >= recipe.epochs]
    if beyond:
        yield f"{where}.milestones: {', '.join(beyond)} of {recipe.epochs} epochs, so the rate never drops there"
    if recipe.patience is not None and recipe.patience >= recipe.epochs > 1:
        yield f"{where}.patience: {recipe.patience} of {recipe.epochs} epochs, so the rate never drops"
    if recipe.ema_start_decay is not None and recipe.ema_warmup_epochs > recipe.epochs:
        yield f"{where}.ema_warmup_epochs: {recipe.ema_warmup_epochs:g} of {recipe.epochs} epochs, so it never ends"


def _of_variant(variant: Variant, recipe: Recipe) -> Iterator[str]:
    for name, settings in variant.parts:
        resolved = [settings]
        if card(name).chain:
            numbers = range(1, stages(settings) + 1)
            resolved = [stage_settings(settings, stage, half, recipe.epochs) for stage in numbers for half in HALVES]
        owner = variant.name if len(variant.parts) == 1 else f"{variant.name}.{card(name).name}"
        lengths = {key: setting.epochs for key, setting in card(name).settings.items() if setting.epochs is not None}
        for one in resolved:
            for key, length in lengths.items():
                if key in one and (end := _end(one, key, length, recipe)):
                    yield f"methods.{owner}.{key}: {end}"


def _end(settings: Mapping[str, Any], key: str, length: Length, recipe: Recipe) -> str:
    """Return what becomes of a length in epochs, empty where it fits or does nothing."""
    value = settings[key][-1] if isinstance(settings[key], list) else settings[key]
    value = int(not value) if isinstance(value, bool) else value
    within = settings.get(length.within) if length.within else recipe.epochs
    if not value or within is None or not all(_on(settings[other]) for other in length.needs):
        return ""
    if length.spans and "epochs_span" in settings:
        within = settings["epochs_span"][1]
    if length.of == "wait" and value >= within:
        return f"{value:g} of {within:g} epochs, so what it holds back never begins"
    if length.of == "ramp" and value > within:
        return f"{value:g} of {within:g} epochs, so what it raises is never whole"
    if length.of == "stage" and value > within:
        return f"{value:g} epochs before or between the recipe's own {within:g}"
    return ""


def _on(value: Any) -> bool:
    return max(value) > 0 if isinstance(value, list) else bool(value)

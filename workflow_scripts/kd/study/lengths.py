"""Lengths in epochs that do not fit the training: warm-ups that never end, first stages longer than all the rest.

They are allowed, for a short trial of a long recipe has them, and told before the first job. So are those that fit and
take more of the training than anybody would give them who knew (`recipe.schedule_epochs` scales them).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from kd.schema.cards import Length, card
from kd.schema.config import Experiment, Recipe
from kd.study.chain import HALVES, stage_settings, stages
from kd.study.experiment import merged_recipe, model_settings, student_recipe, variants
from kd.study.schedule_epochs import counts, in_epochs_of
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
    for variant, recipe in _trained(experiment):
        found += _of_recipe(recipe, f"methods.{variant.name}: recipe") if recipe != experiment.recipe else []
        for place, settings, key, length in _of_variant(variant, recipe):
            end = _end(settings, key, length, recipe)
            found += [f"{place}: {end}"] if end else []
    return list(dict.fromkeys(found))


def unscaled_lengths(experiment: Experiment) -> list[str]:
    """Return one sentence for each length in epochs of a card's recipe that takes more than a tenth of a training.

    Those of `lengths_beyond` are told there. With schedule_epochs they have the share that they were published with.
    """
    found = [
        f"{place}: {_value(settings, key):g} of {recipe.epochs} epochs, which the card counts in a training of "
        f"{length.recipe}{': recipe.schedule_epochs scales it' if recipe.epochs < (length.recipe or 0) else ''}"
        for variant, recipe in _trained(experiment)
        for place, settings, key, length in _of_variant(variant, recipe)
        if recipe.schedule_epochs is None and _exceeds_a_tenth(settings, key, length, recipe)
    ]
    return list(dict.fromkeys(found))


def _trained(experiment: Experiment) -> Iterator[tuple[Variant, Recipe]]:
    """Yield every variant with each recipe that its students have; lengths are not searched."""
    for variant in (one for one in variants(experiment) if not one.searched):
        for student in dict.fromkeys(pair.student for pair in experiment.pairs):
            yield variant, student_recipe(experiment, student, variant)


def _of_recipe(recipe: Recipe, where: str) -> Iterator[str]:
    """Yield what a recipe plans for epochs that it does not have."""
    beyond = [f"{milestone:g}" for milestone in recipe.milestones if milestone >= recipe.epochs]
    if beyond:
        yield f"{where}.milestones: {', '.join(beyond)} of {recipe.epochs} epochs, so the rate never drops there"
    if recipe.patience is not None and recipe.patience >= recipe.epochs > 1:
        yield f"{where}.patience: {recipe.patience} of {recipe.epochs} epochs, so the rate never drops"
    if recipe.ema_start_decay is not None and recipe.ema_warmup_epochs > recipe.epochs:
        yield f"{where}.ema_warmup_epochs: {recipe.ema_warmup_epochs:g} of {recipe.epochs} epochs, so it never ends"


def _of_variant(variant: Variant, recipe: Recipe) -> Iterator[tuple[str, Mapping[str, Any], str, Length]]:
    """Yield the lengths of a variant: where they stand, among which settings, by which key, of what."""
    for name, given in variant.parts:
        settings = in_epochs_of(recipe, name, given)
        resolved: list[Mapping[str, Any]] = [settings]
        if card(name).chain:
            numbers = range(1, stages(settings) + 1)
            resolved = [stage_settings(settings, stage, half, recipe.epochs) for stage in numbers for half in HALVES]
        owner = variant.name if len(variant.parts) == 1 else f"{variant.name}.{card(name).name}"
        lengths = {key: setting.epochs for key, setting in card(name).settings.items() if setting.epochs is not None}
        for one in resolved:
            for key, length in lengths.items():
                if key in one:
                    yield f"methods.{owner}.{key}", one, key, length


def _end(settings: Mapping[str, Any], key: str, length: Length, recipe: Recipe) -> str:
    """Return what becomes of a length in epochs, empty where it fits or does nothing."""
    value = _value(settings, key)
    within = settings.get(length.within) if length.within else recipe.epochs
    if not value or within is None or not counts(settings, length):
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


def _exceeds_a_tenth(settings: Mapping[str, Any], key: str, length: Length, recipe: Recipe) -> bool:
    counted = length.recipe is not None and counts(settings, length)
    value = _value(settings, key) or 0
    return counted and 10 * value > recipe.epochs and not _end(settings, key, length, recipe)


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """Return a length as it is given, its last value where it is a list; of a switch 1 while it is off."""
    value = settings[key][-1] if isinstance(settings[key], list) else settings[key]
    return int(not value) if isinstance(value, bool) else value

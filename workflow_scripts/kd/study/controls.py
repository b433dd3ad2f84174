"""Controls: rows that have a method's weight, views and compute, and not its idea.

A method's gain over kd is that of its loss, of a larger weight, of further views and of more compute together. Its
control (`matched: true`) is kd with the last three, so that the difference to it is what the loss itself gave.

How many epochs a control has is not known when it is planned: its job reads the operations that its method's finished
run took, whatever stages, peers, groups of images or pre-stages those came from, and divides them by those of an epoch
of its own (kd.engine.jobs.budget). So the numbers match as they stand in the table; a method that fails has no control.
Any other method trains for the operations of a row by `compute_of: ROW` in its entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kd.schema.cards import Card, card
from kd.schema.formula import evaluate
from kd.study.names import check_name
from kd.study.schedule_epochs import counts
from kd.study.variant import Variant
from kd.tools.errors import UserError, unknown

ENDING = "_matched"
CONTROL, OF_VIEWS = "kd", "kd_views"
"""Cards that controls are of: of one view of each image, and of several."""
PREDICTIONS = frozenset({"logits", "online", "self", "multi-teacher"})
"""Families whose weights are those of losses of predictions, unless a card says otherwise."""
LABELS = ("ce_weight", "cls_weight")


def with_controls(listed: Sequence[Variant], matched: Sequence[bool]) -> list[Variant]:
    """Return variants with the controls of those that are `matched`, each behind its own, and whose compute each has.

    Errors: UserError for a variant that has none.
    """
    found: list[Variant] = []
    for i, (variant, asked) in enumerate(zip(listed, matched, strict=True)):
        found += [variant, *([_control(variant, f"methods[{i}].matched")] if asked else [])]
    rows = tuple(variant.folder for variant in listed if not variant.budgeted)
    return [
        replace(variant, compute_of=rows) if variant.budgeted and not variant.compute_of else variant
        for variant in found
    ]


def check_compute(listed: Sequence[Variant]) -> None:
    """Refuse a variant that is to train for the operations of another (`compute_of`) and cannot.

    Errors: UserError where the other is not listed or has a budget itself, and for trainings of several stages, which
    no number of epochs alone prolongs.
    """
    possible = {variant.name: variant for variant in listed if not variant.budgeted}
    for i, variant in enumerate(listed):
        where = f"methods[{i}].compute_of"
        for name in variant.compute_of:
            if name not in possible:
                raise unknown(f"method in {where}", name, possible)
            if any(card(reference).compute != "recipe" for reference, _ in variant.parts):
                raise UserError(f"{where}: {variant.name} has the compute of the most expensive row: drop it")
            if variant.chain or variant.linked or any(_in_stages(*part) for part in variant.parts):
                raise UserError(
                    f"{where}: {variant.name} trains in stages, so its epochs alone do not say what it takes"
                )


def _in_stages(reference: str, settings: Mapping[str, Any]) -> bool:
    """Whether a part's own training has a stage of a given length before that of the recipe."""
    one = card(reference)
    return not one.pretrain and any(
        setting.epochs is not None and setting.epochs.of == "stage" and counts(settings, setting.epochs)
        for setting in one.settings.values()
    )


def _control(variant: Variant, where: str) -> Variant:
    name = f"{variant.name}{ENDING}"
    cards = [card(reference) for reference, _ in variant.parts]
    if variant.compute_of:
        raise UserError(f"{where}: {variant.name} has the compute of {variant.compute_of[0]} and no control of its own")
    if all(one.family == "baseline" for one in cards):
        raise UserError(
            f"{where}: {variant.name} distils nothing: ce_matched is cross-entropy for the compute of the most "
            "expensive row"
        )
    if [one.name for one in cards] in ([CONTROL], [OF_VIEWS]):
        raise UserError(f"{where}: {variant.name} is what a control is, and has none")
    reference, settings = _settings(variant)
    return Variant(
        check_name(where, name),
        ((reference, card(reference).resolve(settings, f"{where}: {name}").model_dump(mode="json")),),
        variant.recipe,
        variant.teacher,
        compute_of=(variant.folder,),
        control_of=variant.name,
    )


def _settings(variant: Variant) -> tuple[str, dict[str, Any]]:
    """Return the card of a variant's control and the settings that it is given."""
    told = [(card(reference), settings) for reference, settings in variant.parts]
    weights = [_weight(one, settings) for one, settings in told]
    found: dict[str, Any] = {}
    if sum(weights) > 0:
        found = {"kd_weight": sum(weights), **_labels(told)}
        first = next(part for part, weight in zip(told, weights, strict=True) if weight > 0)
        found |= _named("temperature", *first)
    views = max(round(evaluate(one.control.views, settings)) for one, settings in told)
    if views == 1:
        return CONTROL, found
    strong: dict[str, Any] = {
        key: value for _, settings in told for key, value in settings.items() if key.startswith("strong_")
    }
    return OF_VIEWS, {**found, "views": views, **strong}


def _weight(one: Card, settings: Mapping[str, Any]) -> float:
    """Return the weight of a part's divergences between predictions, in kd's."""
    if one.control.weight:
        return evaluate(one.control.weight, settings)
    if "kd_weight" in settings:
        return evaluate("kd_weight", settings)
    weights = [key for key in settings if key.endswith("_weight") and key not in LABELS]
    return sum(evaluate(key, settings) for key in weights) if one.family in PREDICTIONS else 0.0


def _labels(told: Sequence[tuple[Card, Mapping[str, Any]]]) -> dict[str, float]:
    """Return the weight of all classification losses together, if any part says it."""
    formulas = [
        (one.control.ce or next((key for key in LABELS if key in settings), ""), settings) for one, settings in told
    ]
    known = [evaluate(formula, settings) for formula, settings in formulas if formula]
    return {"ce_weight": sum(known)} if known else {}


def _named(key: str, one: Card, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return a setting of the control that a card has a formula of, or one of that name."""
    formula = getattr(one.control, key) or (key if key in settings else "")
    return {key: evaluate(formula, settings)} if formula else {}

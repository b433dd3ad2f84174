"""Chains of runs: which runs a method takes whose teacher is a student of the same experiment.

Unlike the half-stages of `kd.study.chain`, every link is a whole run with a folder, an evaluation and a row of its own.
Settings that may differ by link (per_stage in the card) are one value for all or a list with one value a link.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kd.schema.cards import card
from kd.study.variant import Variant
from kd.tools.errors import UserError, unknown


@dataclass(frozen=True)
class Link:
    """One run of a chain."""

    suffix: str
    """What its folder's name has after the variant's."""
    network: str | None
    """What is trained; None: the pair's student."""
    settings: dict[str, Any]
    """What its loss takes, as single values."""


def with_links(variant: Variant, listed: Sequence[Variant], where: str) -> Variant:
    """Return the last of the links that a chain of runs is written out as; any other variant as it is.

    `listed` are the experiment's variants, among which the first teacher may be.
    """
    if not variant.linked:
        return variant
    ((method, settings),) = variant.parts
    before = _origin(variant, settings, listed, where)
    teacher = before.teacher if before else variant.teacher
    for link in links_of(method, settings, where):
        before = replace(
            variant,
            parts=((method, link.settings),),
            teacher=teacher,
            suffix=link.suffix,
            network=link.network,
            after=before,
            last=False,
        )
    assert before is not None, "a chain has a link"
    return replace(before, last=True, ensemble=settings.get("ensemble", False))


def links_of(method: str, settings: Mapping[str, Any], where: str) -> list[Link]:
    """Return the runs of a chain in the order of teaching, from the method's complete settings; the last is its result.

    A generation's folder is numbered even where it is the last, so that more generations find it trained already.
    """
    if card(method).links == "generations":
        named: list[tuple[str, str | None]] = [(f".gen{g}", None) for g in range(1, settings["generations"] + 1)]
    else:
        assistants: Sequence[str] = settings["assistants"]
        if not assistants or len(set(assistants)) < len(assistants):
            raise UserError(f"{where}.assistants: give one network or more, each once, found {list(assistants)}")
        named = [(f".hop{k}", name) for k, name in enumerate(assistants, start=1)]
        named.append(("", None))
    own = [_at_link(method, settings, k, len(named), where) for k in range(len(named))]
    return [Link(suffix, network, found) for (suffix, network), found in zip(named, own, strict=True)]


def _origin(variant: Variant, settings: Mapping[str, Any], listed: Sequence[Variant], where: str) -> Variant | None:
    """Return whose student teaches the first link, None where a teacher of the pair does."""
    if "origin" not in settings:
        return None
    if variant.teacher is not None:
        raise UserError(f"{where}.teacher: {variant.name} learns from the student of its setting origin first, drop it")
    possible = {other.name: other for other in listed if not (other.linked or other.budgeted)}
    if settings["origin"] not in possible:
        raise unknown(f"method in {where}.origin", settings["origin"], possible)
    return possible[settings["origin"]]


def _at_link(method: str, settings: Mapping[str, Any], k: int, count: int, where: str) -> dict[str, Any]:
    """Return exactly what the loss of link k (from 0) depends on: more links later change nothing in it."""
    found: dict[str, Any] = {}
    for key, setting in card(method).settings.items():
        value = settings[key]
        listed = setting.per_stage and isinstance(value, list)
        if listed and len(value) != count:
            raise UserError(f"{where}.{key}: give one value or {count}, one a run of the chain, found {len(value)}")
        if not setting.plan:
            found[key] = value[k] if listed else value
    return found

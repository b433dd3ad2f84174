"""The search of hyper-parameters: which trials there are of which method, and what each of them draws.

A trial is a variant that differs from its method in what it draws; its run has the search's own seed and reads no test
split. The row NAME_searched is trained with the settings of the trial that validation chose, with the experiment's
seeds: its job reads them (rule `choose`), for when it is planned nobody knows them.

A draw is a number in [0, 1) made from the search's seed, the hyper-parameter's own name and the trial's number, and
from nothing else: neither another hyper-parameter nor further trials move it, and methods that share one (the learning
rate, say) try the same values.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kd.schema.cards import Card, Setting, card
from kd.schema.config import Experiment, Range, Recipe, Search
from kd.study.names import check_name
from kd.study.runs import Run
from kd.study.variant import Variant
from kd.tools.errors import UserError, shown, unknown

ENDING = "_searched"
TRIAL = ".trial"
RECIPE = "recipe"
"""Stands before the names of what is drawn of the recipe, as a card's name before those of its settings."""
DIGITS = 3
"""Of a drawn number, so that a table can hold it as it was."""


def with_searches(experiment: Experiment, listed: Sequence[Variant]) -> list[Variant]:
    """Return variants with the searched forms of those that are searched, each behind its own (and its control).

    Errors: UserError for a search that cannot be made.
    """
    search = experiment.search
    if search is None:
        return list(listed)
    names = {variant.name: variant for variant in listed if not variant.control_of}
    asked = _asked(search, names)
    _check_ranges(search, [names[name] for name in asked])
    if search.seed in experiment.seeds:
        raise UserError(
            f"search.seed: {search.seed} is one of seeds: what a search chose is trained anew, with other seeds than "
            "its own"
        )
    found: list[Variant] = []
    for i, variant in enumerate(listed):
        found.append(variant)
        follows = listed[i + 1].control_of if i + 1 < len(listed) else ""
        name = variant.control_of or variant.name
        if name in asked and follows != variant.name:
            found.append(_searched(search, names[name]))
    return found


def _asked(search: Search, names: Mapping[str, Variant]) -> list[str]:
    """Return the names of the methods that are searched."""
    if not names:
        raise UserError("search: the experiment has no methods to search")
    for name in search.methods:
        if name not in names:
            raise unknown("method in search.methods", name, names)
        if search.methods.count(name) > 1:
            raise UserError(f"search.methods: {name} is listed twice, drop one of them")
    asked = search.methods or list(names)
    for name in asked:
        reason = ""
        if names[name].chain or names[name].linked:
            reason = "is a chain of jobs"
        elif names[name].budgeted:
            reason = "trains for what other runs took"
        if reason:
            raise UserError(f"search: {name} {reason} and cannot be searched: list the others in search.methods")
    return asked


def _check_ranges(search: Search, asked: Sequence[Variant]) -> None:
    """Refuse ranges of what is not there, or cannot be searched, or may not have all of their values."""
    used = {card(reference).name: card(reference) for variant in asked for reference, _ in variant.parts}
    for name in search.ranges:
        if name not in used:
            raise unknown("card in search.ranges", name, used)
    for name, one in used.items():
        for key, setting in one.settings.items():
            if setting.search is not None:
                _check_values(one, key, setting.search, f"card {name}: search")
        for key, where in search.ranges.get(name, {}).items():
            _check_setting(one, key, f"search.ranges.{name}")
            _check_values(one, key, where, f"search.ranges.{name}")


def _check_setting(one: Card, key: str, place: str) -> None:
    """Refuse a setting that an experiment's range is not for."""
    if key not in one.settings:
        raise unknown(f"setting of method {one.name} in {place}", key, one.settings)
    if not one.settings[key].can_be_searched:
        raise UserError(
            f"{place}.{key}: a list, a length in epochs and what decides which runs there are is not searched"
        )
    if key == "form" and one.forms:
        raise UserError(f"{place}.form: it decides the defaults of other settings of {one.name}, give it in the entry")
    if one.pretrain and one.settings[key].search is None:
        known = ", ".join(name for name, setting in one.settings.items() if setting.search is not None)
        raise UserError(
            f"{place}.{key}: {one.name} has a pre-stage that is made once for all trials and may depend on it: allowed "
            f"are {known}"
        )


def _check_values(one: Card, key: str, where: Range, place: str) -> None:
    """Refuse a range with values that the setting may not have."""
    setting = one.settings[key]
    ends = where.log or where.linear or where.times
    if ends is not None and setting.type not in {"int", "float"}:
        raise UserError(f"{place}.{key}: is no number: give choices")
    if where.times is not None and setting.default is None:
        raise UserError(f"{place}.{key}: times has nothing to multiply where the default is null: give log or linear")
    if ends is not None and where.times is None and setting.type == "int" and any(end != int(end) for end in ends):
        raise UserError(f"{place}.{key}: is a whole number: give whole numbers, found {shown(ends)}")
    for value in where.choices or _ends(where, setting):
        one.resolve({key: value}, place)


def _ends(where: Range, setting: Setting) -> list[Any]:
    """Return the smallest and the largest value of a range of numbers; what is no finite number stays as it is."""
    ends: Sequence[float] = where.log or where.linear or [end * setting.default for end in where.times or ()]
    return [round(end) if setting.type == "int" and math.isfinite(end) else end for end in ends]


def _searched(search: Search, variant: Variant) -> Variant:
    """Return the variant that is trained with what the search of another one chooses."""
    if not [*_of_parts(search, variant), *_of_recipe(search, variant)]:
        raise UserError(
            f"search: {variant.name} has nothing to search: give search.ranges or search.recipe something of it, or "
            "list the others in search.methods"
        )
    name = check_name(f"search: {variant.name}", variant.name + ENDING)
    return replace(variant, name=name, searched=variant.name, compute_of=())


def trials_of(search: Search | None, variant: Variant) -> list[Variant]:
    """Return the trials of a searched variant in their order; none of any other one."""
    if search is None or not variant.searched or variant.trial:
        return []
    numbers = range(1, search.trials + 1)
    return [_trial(search, variant, number) for number in numbers]


def _trial(search: Search, variant: Variant, number: int) -> Variant:
    parts = [(reference, dict(settings)) for reference, settings in variant.parts]
    for name, part, key, where in _of_parts(search, variant) if number > 1 else ():
        reference, settings = parts[part]
        setting = card(reference).settings[key]
        value = drawn(where, share_of(search.seed, name, number), settings[key], setting.type == "int")
        settings[key] = float(value) if setting.type == "float" else value
    return replace(variant, parts=tuple(parts), suffix=f"{TRIAL}{number}", trial=number, last=False)


class Searches:
    """The searches of an experiment, and the runs of each."""

    def __init__(self, search: Search | None, variants: Mapping[str, Variant], runs: Sequence[Run]) -> None:
        self.search = search
        self.runs = list(dict.fromkeys(self.of(run) for run in runs if variants[run.method].searched))
        """Each search once, as the run of its row with the search's own seed."""
        self._trials: dict[str, list[str]] = {}
        for folder, variant in variants.items():
            if variant.trial:
                self._trials.setdefault(variant.name, []).append(folder)

    def of(self, run: Run) -> Run:
        """Return the search that a run of a searched row waits for."""
        assert self.search is not None, "a searched row has a search"
        return replace(run, seed=self.search.seed)

    def trials(self, run: Run) -> list[Run]:
        """Return the trials of a search in their order."""
        return [replace(run, method=folder) for folder in self._trials[run.method]]


def drawn_recipe(search: Search | None, variant: Variant, recipe: Recipe) -> dict[str, Any]:
    """Return what a trial draws of the recipe that its student has without the search."""
    if search is None or variant.trial < 2:
        return {}
    return {
        key: drawn(where, share_of(search.seed, f"{RECIPE}.{key}", variant.trial), getattr(recipe, key))
        for key, where in _of_recipe(search, variant).items()
    }


def drawn_by(search: Search, variant: Variant, recipe: Recipe) -> dict[str, Any]:
    """Return by name what is searched of a variant, with the values of a trial: `recipe` is the trial's."""
    found = {name: variant.parts[part][1][key] for name, part, key, _ in _of_parts(search, variant)}
    return found | {f"{RECIPE}.{key}": getattr(recipe, key) for key in _of_recipe(search, variant)}


def _of_parts(search: Search, variant: Variant) -> Iterator[tuple[str, int, str, Range]]:
    """Yield what is searched of a variant's losses: name, number of the part, setting, range."""
    for part, (reference, _) in enumerate(variant.parts):
        one = card(reference)
        own = {key: setting.search for key, setting in one.settings.items() if setting.search is not None}
        for key, where in {**own, **search.ranges.get(one.name, {})}.items():
            if key not in variant.given[part]:
                yield f"{one.name}.{key}", part, key, where


def _of_recipe(search: Search, variant: Variant) -> dict[str, Range]:
    """Return what is searched of a variant's recipe."""
    return {key: where for key, where in search.recipe if where is not None and key not in variant.recipe}


def share_of(seed: int, name: str, trial: int) -> float:
    """Return a trial's draw of a hyper-parameter, in [0, 1)."""
    digest = hashlib.sha256(f"{seed} {name} {trial}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # bits that a float holds: it stays below 1


def drawn(where: Range, share: float, usual: Any, whole: bool = False) -> Any:
    """Return the value that lies this share of the way through a range; `usual` is what multiples are of."""
    if where.choices is not None:
        return where.choices[int(share * len(where.choices))]
    if where.linear is not None:
        low, high = where.linear
        if whole:
            return int(low + math.floor(share * (high - low + 1)))
        return _tidy(low + (high - low) * share, low, high)
    low, high = where.log or where.times or (1.0, 1.0)
    value = low * (high / low) ** share * (1.0 if where.times is None else usual)
    if where.times is not None:
        low, high = low * usual, high * usual
    return round(value) if whole else _tidy(value, low, high)


def _tidy(value: float, low: float, high: float) -> float:
    """Return a number with few digits that lies where it should."""
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)

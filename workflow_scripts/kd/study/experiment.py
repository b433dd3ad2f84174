"""From an experiment file to checked settings: every name resolved, every mistake told before a job starts."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kd.schema.architectures import blocks_of, check_architecture
from kd.schema.cards import card, card_names, is_path
from kd.schema.config import NAME_PATTERN, Experiment, ModelSettings, Recipe, Reporting
from kd.schema.consistency import (
    check_dataset,
    check_network,
    check_recipe,
    check_size,
    check_used,
)
from kd.schema.plain import plain_error
from kd.schema.reading import TEXTS, plain_values, read_configuration, read_values
from kd.study.chain import STUDENT_UPDATE, stage_settings, stages
from kd.study.controls import check_compute, with_controls
from kd.study.designs import designs
from kd.study.links import with_links
from kd.study.names import check_file_names, check_name, check_names, check_variant_names
from kd.study.search import drawn_recipe, trials_of, with_searches
from kd.study.variant import Variant
from kd.tools.errors import UserError, shown, unknown

Settings = TypeVar("Settings", bound=BaseModel)

ENTRY_KEYS = {"method", "card", "name", "recipe", "teacher", "combine", "matched", "compute_of"}
"""Of an entry of `methods`: all but settings of the method."""
WHAT = ("method", "card", "combine")


def load_experiment(path: str | Path) -> Experiment:
    """Read and check an experiment file."""
    return check_experiment(read_configuration(path))


def workflow_configuration(
    given: Mapping[str, Any], default: Path, files: Sequence[Path] = (), typed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the experiment that Snakemake was given; without one, the quick start with what --config changes.

    `given` is what Snakemake made of `files` (--configfile) and `typed` (--config). An experiment file is complete:
    nothing of the quick start leaks into it. Errors: UserError for a file that names no experiment, or that holds what
    Snakemake's reader would drop or take for something else.
    """
    for file in files:
        read_configuration(file)
    content = _as_typed(given, typed or {})
    if "experiment" in content:
        return content
    if files:
        names = " and ".join(str(file) for file in files)
        raise UserError(f"{names}: key experiment is missing: an experiment file is complete and begins with its name")
    return _merged(read_configuration(default), content)


def _as_typed(given: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return content with the numbers of --config as numbers: Snakemake hands over lists and keys of text."""
    content = dict(given)
    for key in set(typed) & set(given):
        value, new = given[key], typed[key]
        if isinstance(value, Mapping) and isinstance(new, Mapping):
            content[key] = _as_typed(value, new) if key not in TEXTS else value
        elif key not in TEXTS:
            content[key] = read_values(new)
    return content


def check_experiment(content: Mapping[str, Any]) -> Experiment:
    """Check the content of an experiment file, as far as it can be known before a job starts.

    Values only: whether images and weights are there is looked at for jobs that are to run (kd.study.user_files).
    """
    experiment = checked(Experiment, plain_values(content), "")
    check_names(experiment)
    check_size(experiment, len(experiment.methods))
    for where, recipe in (("recipe", experiment.recipe), ("teacher_recipe", experiment.teacher_recipe)):
        if recipe is not None:
            check_recipe(experiment, recipe, recipe.model_dump(exclude_unset=True), where)
    _check_networks(experiment)
    _check_datasets(experiment)
    listed = variants(experiment)
    names = [variant.name for variant in listed]
    _check_co_trained(experiment.co_train, {variant.name: variant for variant in listed})
    _check_assistants(experiment, listed)
    _check_teachers_only(experiment, listed)
    # the default stands in an experiment's record too, where nobody asked for it
    asked_for = experiment.report.references != Reporting().references
    for reference in experiment.report.references:
        if asked_for and reference not in names:
            raise unknown("method in report.references", reference, names)
    designs(experiment, {variant.name: variant for variant in listed}, list(experiment.datasets))
    trials = [trial for variant in listed for trial in trials_of(experiment.search, variant)]
    for trial in trials:
        _check_variant(experiment, trial, f"search, trial {trial.trial} of {trial.searched}")
    _check_links(experiment, [*(link for variant in listed for link in variant.lineage), *trials])
    return experiment


def _check_links(experiment: Experiment, links: Sequence[Variant]) -> None:
    """Refuse networks that nothing uses, and names that are too long together."""
    section = experiment.continual or {}
    named = [section.get("student"), section.get("teacher"), *(link.network for link in links)]
    check_used(experiment, [name for name in named if isinstance(name, str)])
    check_file_names(experiment, [link.folder for link in links])


def _check_networks(experiment: Experiment) -> None:
    for name, settings in {**experiment.models, **_named_models(experiment)}.items():
        check_architecture(settings.arch)
        check_network(name, settings)
        for base in _recipes_of(experiment, name) if settings.recipe else ():
            recipe = merged_recipe(base, settings.recipe, f"models.{name}.recipe")
            check_recipe(experiment, recipe, settings.recipe, f"models.{name}.recipe")


def _recipes_of(experiment: Experiment, name: str) -> list[Recipe]:
    """Return the recipes that a network's own changes are made to: the teachers', the students', or both."""
    teaches = any(name in pair.teachers for pair in experiment.pairs)
    learns = any(name == pair.student for pair in experiment.pairs) or not teaches
    bases = [experiment.teacher_recipe or experiment.recipe] if teaches else []
    return [*bases, experiment.recipe] if learns else bases


def _check_datasets(experiment: Experiment) -> None:
    for name, dataset in experiment.datasets.items():
        check_dataset(name, dataset)


def _check_co_trained(names: Sequence[str], listed: Mapping[str, Variant]) -> None:
    """Refuse methods that cannot be one job: chains of jobs, and methods of different teachers."""
    for name in names:
        if name not in listed:
            raise unknown("method in co_train", name, listed)
        if listed[name].chain or listed[name].linked:
            raise UserError(f"co_train: {name} is a chain of jobs and cannot be trained beside other methods")
        if listed[name].searched:
            raise UserError(f"co_train: {name} waits for its search and cannot be trained beside other methods")
        if listed[name].budgeted:
            raise UserError(f"co_train: {name} trains for what other runs took and cannot be trained beside them")
    teams = {(listed[name].teachers, listed[name].teacher) for name in names}
    if len(teams) > 1:
        raise UserError(f"co_train: methods of one job share their teachers, found different ones among {list(names)}")


def _check_assistants(experiment: Experiment, listed: Sequence[Variant]) -> None:
    """Refuse networks of chains of runs that do not exist or stand at the chain's ends already."""
    ends = {name for pair in experiment.pairs for name in (*pair.teachers, pair.student)}
    for link in (link for variant in listed for link in variant.lineage if link.network is not None):
        assert link.network is not None
        if link.network in ends:
            raise UserError(f"methods.{link.name}.assistants: {link.network} is a teacher or student of a pair already")
        if link.network not in experiment.models and not re.fullmatch(NAME_PATTERN, link.network):
            raise UserError(f"methods.{link.name}.assistants: give the architecture '{link.network}' a name in models")
        check_architecture(model_settings(experiment, link.network).arch)


def _check_teachers_only(experiment: Experiment, listed: Sequence[Variant]) -> None:
    """Refuse what only teachers may have: a share of the classes (a student has its data set's), and no training."""
    students = {pair.student for pair in experiment.pairs}
    students |= {link.network for variant in listed for link in variant.lineage if link.network is not None}
    students |= {str((experiment.continual or {}).get("student"))}
    for name, settings in experiment.models.items():
        if settings.classes is not None and name in students:
            raise UserError(f"models.{name}.classes: only a teacher learns a share of the classes, {name} is a student")
        if not settings.train and name in students:
            raise UserError(f"models.{name}.train: only a teacher is used as it is, {name} is a student")


def checked(model: type[Settings], content: Mapping[str, Any], where: str) -> Settings:
    """Validate into a settings model; the first problem becomes one sentence."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise plain_error(error, model, where) from error


def merged_recipe(base: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    """Return a recipe with some keys replaced, checked as a whole; what lies within a key is changed likewise."""
    if not changes:
        return base
    return checked(Recipe, _merged(base.model_dump(), changes), where)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys and values with some of them replaced, as --config changes a file's."""
    both = {
        key: _merged(base[key], new)
        for key, new in changes.items()
        if isinstance(base.get(key), Mapping) and isinstance(new, Mapping)
    }
    return {**base, **changes, **both}


def student_recipe(experiment: Experiment, student: str, variant: Variant) -> Recipe:
    """Return the recipe of a variant's runs: the experiment's, with what the network and then the variant change."""
    settings = model_settings(experiment, student)
    recipe = merged_recipe(experiment.recipe, settings.recipe, f"models.{student}.recipe")
    recipe = merged_recipe(recipe, variant.recipe, f"methods.{variant.name}.recipe")
    where = f"search, trial {variant.trial} of {variant.searched}: recipe"
    return merged_recipe(recipe, drawn_recipe(experiment.search, variant, recipe), where)


def model_settings(experiment: Experiment, name: str) -> ModelSettings:
    """Return the settings behind a network's name; a name without an entry is an architecture."""
    return experiment.models.get(name) or ModelSettings(arch=name)


def variants(experiment: Experiment) -> list[Variant]:
    """Resolve the methods of an experiment; names must differ. Of a chain of runs it is the last that is returned."""
    resolved = [_variant(experiment, entry, f"methods[{i}]") for i, entry in enumerate(experiment.methods)]
    resolved = [with_links(variant, resolved, f"methods[{i}]") for i, variant in enumerate(resolved)]
    check_compute(resolved)
    resolved = with_controls(resolved, [_matched(entry, f"methods[{i}]") for i, entry in enumerate(experiment.methods)])
    resolved = with_searches(experiment, resolved)
    names = [variant.name for variant in resolved]
    taken = names + [link.folder for variant in resolved for link in variant.lineage if link.suffix]
    taken += [trial.folder for variant in resolved for trial in trials_of(experiment.search, variant)]
    made = {variant.name: f"the control of {variant.control_of}" for variant in resolved if variant.control_of}
    made |= {variant.name: f"{variant.searched} with searched settings" for variant in resolved if variant.searched}
    for variant in resolved:
        if variant.control_of:
            _check_variant(experiment, variant, f"methods: {variant.name}, the control of {variant.control_of}")
    for name in names:
        if taken.count(name) > 1:
            hint = f" ({name} is {made[name]})" if name in made else ""
            raise UserError(f"methods: two variants are named '{name}'{hint}: give one of them another name")
    check_variant_names("methods", taken)
    _check_cards({reference for variant in resolved for reference, _ in variant.parts})
    return resolved


def _check_cards(references: set[str]) -> None:
    """Refuse two cards of one name: tables tell methods apart by it."""
    first: dict[str, str] = {}
    for reference in sorted(references):
        other = first.setdefault(card(reference).name, reference)
        if other != reference:
            raise UserError(f"methods: {other} and {reference} are both named {card(reference).name}: rename one")


def _matched(entry: str | dict[str, Any], where: str) -> bool:
    """Return whether an entry asks for its control."""
    matched = False if isinstance(entry, str) else entry.get("matched", False)
    if not isinstance(matched, bool):
        raise UserError(f"{where}.matched: must be true or false, found {shown(matched)}")
    return matched


def _variant(experiment: Experiment, entry: str | dict[str, Any], where: str) -> Variant:
    content: dict[str, Any] = {"method": entry} if isinstance(entry, str) else dict(entry)
    if len(set(WHAT) & set(content)) != 1:
        raise UserError(f"{where}: give one of method, card and combine, found {sorted(content)}")
    recipe, teacher = content.get("recipe", {}), content.get("teacher")
    if not isinstance(recipe, dict):
        raise UserError(f"{where}.recipe: must be keys and values of a recipe, found {shown(recipe)}")
    if "teacher" in content:
        check_name(f"{where}.teacher", teacher)
    if "combine" in content:
        parts = _combined(content, where)
        given = [_given(part) for part in content["combine"]]
    else:
        settings = {key: value for key, value in content.items() if key not in ENTRY_KEYS}
        parts, given = [_part(content, settings, where)], [_given(content)]
    alone = card(parts[0][0])
    if len(parts) == 1 and not alone.alone:
        raise UserError(f"{where}: {alone.name} has no loss of its own: combine it, as in combine: [kd, {alone.name}]")
    name = check_name(f"{where}.name", content.get("name", alone.name))
    spent = (check_name(f"{where}.compute_of", content["compute_of"]),) if "compute_of" in content else ()
    variant = Variant(name, tuple(parts), recipe, teacher, given=tuple(given), compute_of=spent)
    _check_variant(experiment, variant, where)
    return variant


def _given(entry: str | Mapping[str, Any]) -> frozenset[str]:
    """Return the settings that an entry, or a part of one, gives."""
    return frozenset() if isinstance(entry, str) else frozenset(entry) - ENTRY_KEYS


def _combined(content: dict[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    if "name" not in content:
        raise UserError(f"{where}: a combination needs a name")
    for key in content:
        if key not in ENTRY_KEYS:
            raise unknown(f"key in {where}", key, ENTRY_KEYS)
    if not isinstance(content["combine"], list):
        raise UserError(
            f"{where}.combine: must be a list of methods, as in [kd, {{method: at, at_weight: 50.0}}], found "
            f"{shown(content['combine'])}"
        )
    parts = [_combined_part(part, f"{where}.combine[{i}]") for i, part in enumerate(content["combine"])]
    names = [card(name).name for name, _ in parts]
    if len(parts) < 2 or len(set(names)) < len(names):
        raise UserError(f"{where}.combine: needs at least two different methods, found {names}")
    if any(card(name).chain or card(name).links != "none" for name, _ in parts):
        raise UserError(f"{where}.combine: a method that runs as a chain of jobs cannot be combined, found {names}")
    for name, settings in parts:
        reasons = [card(name).uncombined, *(s.uncombined for key, s in card(name).settings.items() if settings[key])]
        if any(reasons):
            raise UserError(
                f"{where}.combine: {card(name).name} {next(filter(None, reasons))} and cannot be combined with others"
            )
    return parts


def _combined_part(part: object, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(part, str):
        return _part({"method": part}, {}, where)
    if not isinstance(part, dict):
        raise UserError(f"{where}: must be a method's name, or its name and settings, found {shown(part)}")
    if len({"method", "card"} & set(part)) != 1:
        raise UserError(f"{where}: give one of method and card, found {sorted(part)}")
    return _part(part, {key: value for key, value in part.items() if key not in {"method", "card"}}, where)


def _part(content: Mapping[str, Any], settings: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Return the card that an entry names, by its name or its path, and the method's settings."""
    if "card" in content:
        return _own_part(content["card"], settings, where)
    name = content["method"]
    if not isinstance(name, str):
        raise UserError(f"{where}.method: must be a method's name, found {shown(name)}")
    if name not in card_names():
        raise UserError(f"{where}: {unknown('method', name, card_names())}")
    return name, card(name).resolve(settings, where).model_dump(mode="json")


def _own_part(path: object, settings: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(path, str) or not is_path(path):
        raise UserError(f"{where}.card: must be the path of a card, as in my/method.yaml, found {shown(path)}")
    path = os.path.normpath(path)
    try:
        return path, card(path).resolve(settings, where).model_dump(mode="json")
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}.card: {error}") from error


def _check_variant(experiment: Experiment, variant: Variant, where: str) -> None:
    recipe = merged_recipe(experiment.recipe, variant.recipe, f"{where}.recipe")
    check_recipe(experiment, recipe, variant.recipe, f"{where}.recipe")
    _check_mixing(variant, recipe, where)
    for student in _students(experiment, variant):
        place = f"{where} for student {student}" if model_settings(experiment, student).recipe else where
        recipe = student_recipe(experiment, student, variant)
        check_recipe(experiment, recipe, {}, f"{place}: recipe")
        _check_mixing(variant, recipe, place)
        _check_momentum(variant, recipe, place)
        _check_budget(variant, recipe, place)
        if variant.chain:
            _check_stages(variant, recipe, place)
    if variant.chain:
        _check_freezing(experiment, variant.parts[0][1], where)
    for pair in experiment.pairs:
        if variant.teacher is not None and variant.teacher not in pair.teachers:
            raise unknown(f"teacher in {where} for student {pair.student}", variant.teacher, pair.teachers)
        if variant.teachers == "many" and len(pair.teachers) < 2:
            raise UserError(f"{where}: {variant.name} needs several teachers, the pair has only {pair.teachers[0]}")


def _students(experiment: Experiment, variant: Variant) -> list[str]:
    """Return the names of all networks that a variant trains."""
    assistants = [name for _, settings in variant.parts for name in settings.get("assistants", [])]
    return list(dict.fromkeys([*(pair.student for pair in experiment.pairs), *assistants]))


def _check_mixing(variant: Variant, recipe: Recipe, where: str) -> None:
    """Refuse MixUp and CutMix for losses that are not defined for them."""
    mixing = recipe.mixup_alpha > 0 or recipe.cutmix_alpha > 0
    for name, _ in variant.parts:
        if mixing and not card(name).mixed_labels:
            raise UserError(f"{where}: method {name} is not defined for MixUp or CutMix, set both alphas to 0 for it")


def _check_stages(variant: Variant, recipe: Recipe, where: str) -> None:
    """Refuse settings of a chain of half-stages that contradict each other or the recipe."""
    ((_, settings),) = variant.parts
    try:
        for stage in range(1, stages(settings) + 1):
            at_stage = stage_settings(settings, stage, STUDENT_UPDATE, recipe.epochs)
            _, epochs = at_stage.get("epochs_span") or (0, at_stage["student_epochs"])
            if recipe.warmup_epochs >= epochs:
                raise UserError(
                    f"recipe.warmup_epochs ({recipe.warmup_epochs:g}) must be below the epochs of the student update, "
                    f"found {epochs:g} in stage {stage}"
                )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _check_freezing(experiment: Experiment, settings: Mapping[str, Any], where: str) -> None:
    """Refuse levels of partial freezing beyond the blocks of a pair's networks, as far as those are known."""
    if not settings["use_partial_freeze"]:
        return
    of_teachers, each = _listed(settings["teacher_freeze_level"]), settings["teacher_freeze_levels"]
    of_student = [settings["student_freeze_level"], *(settings["student_freeze_schedule"] or [])]
    for pair in experiment.pairs:
        if each is not None and len(each) != len(pair.teachers):
            raise UserError(f"{where}.teacher_freeze_levels: give one a teacher of {pair.name}, found {len(each)}")
        levels = [(name, of_teachers if each is None else [each[i]]) for i, name in enumerate(pair.teachers)]
        for name, wanted in (*levels, (pair.student, of_student)):
            blocks = blocks_of(model_settings(experiment, name).arch)
            if blocks is not None and max(wanted) > blocks:
                raise UserError(f"{where}: freezing keeps the last {max(wanted)} blocks of {name}, which has {blocks}")


def _check_budget(variant: Variant, recipe: Recipe, where: str) -> None:
    """Refuse to train for a number of operations where validation decides when training ends."""
    if recipe.schedule == "plateau" and variant.budgeted:
        raise UserError(
            f"{where}: {variant.name} trains for what other runs took, but recipe.schedule plateau ends when "
            "validation says so: allowed are step, cosine and constant"
        )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_momentum(variant: Variant, recipe: Recipe, where: str) -> None:
    """Refuse settings that change the momentum where a recipe has none to change."""
    changing = [
        (name, key, settings[key])
        for name, settings in variant.parts
        for key in settings
        if card(name).settings[key].momentum_offset
    ]
    for name, key, offset in changing:
        momentum = recipe.momentum
        if recipe.optimizer != "sgd" or recipe.nesterov:
            found = f"{recipe.optimizer} with nesterov" if recipe.nesterov else recipe.optimizer
            raise UserError(f"{where}: method {name} needs recipe.optimizer sgd without nesterov, found {found}")
        if momentum - offset < 0 or momentum + offset >= 1:
            raise UserError(
                f"{where}: recipe.momentum less and plus {key} of method {name} must lie from 0 to below 1, found "
                f"{momentum:g} and {offset:g}"
            )


def _named_models(experiment: Experiment) -> dict[str, ModelSettings]:
    names: Sequence[str] = [name for pair in experiment.pairs for name in (*pair.teachers, pair.student)]
    return {name: model_settings(experiment, name) for name in names}

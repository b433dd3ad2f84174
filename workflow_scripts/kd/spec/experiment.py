"""From an experiment file to checked settings: every name resolved, every mistake told before a job starts."""

import re
import types
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from kd.spec.architectures import check_architecture
from kd.spec.cards import card, first_problem
from kd.spec.chain import STUDENT_UPDATE, stage_settings, stages
from kd.spec.cifar import CIFARS, check_root
from kd.spec.config import Experiment, ModelSettings, Recipe, Reporting
from kd.spec.designs import designs
from kd.spec.errors import UserError, unknown
from kd.spec.links import with_links
from kd.spec.variant import Variant

Settings = TypeVar("Settings", bound=BaseModel)

ENTRY_KEYS = {"method", "name", "recipe", "teacher", "combine"}

EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")
"""A number with an exponent, as YAML 1.2 reads it."""
TEXTS = {"experiment", "description", "name", "root", "archives", "class_list", "class_subset", "cache"}
"""Keys of values that stay text whatever they look like: a class folder may be named 1e4."""


def load_experiment(path: str | Path) -> Experiment:
    """Read and check an experiment file."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"configuration file {path} does not exist") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, found {type(content).__name__}")
    return check_experiment(content)


def workflow_configuration(given: Mapping[str, Any], default: Path) -> dict[str, Any]:
    """Return the experiment that Snakemake was given; without one, the quick start with what --config changes.

    An experiment file is complete: nothing of the quick start leaks into it.
    """
    if "experiment" in given:
        return dict(given)
    return {**yaml.safe_load(default.read_text(encoding="utf-8")), **given}


def check_experiment(content: Mapping[str, Any]) -> Experiment:
    """Check the content of an experiment file, as far as it can be known before a job starts."""
    experiment = checked(Experiment, _with_numbers(content), "")
    for name, settings in {**experiment.models, **_named_models(experiment)}.items():
        check_architecture(settings.arch)
        if isinstance(settings.pretrained, str) and not Path(settings.pretrained).is_file():
            raise UserError(f"models.{name}.pretrained: file {settings.pretrained} does not exist")
        merged_recipe(experiment.recipe, settings.recipe, f"models.{name}.recipe")
    for name, dataset in experiment.datasets.items():
        for file in dataset.files():
            if not file.exists():
                raise UserError(f"datasets.{name}: {file} does not exist")
        if dataset.root is not None and not dataset.download and not Path(dataset.root).is_dir():
            raise UserError(f"datasets.{name}.root: folder {dataset.root} does not exist")
        if dataset.source in CIFARS:
            check_root(dataset.source, str(dataset.root), dataset.download, f"datasets.{name}")
    listed = variants(experiment)
    names = [variant.name for variant in listed]
    _check_co_trained(experiment.co_train, {variant.name: variant for variant in listed})
    _check_assistants(experiment, listed)
    _check_class_shares(experiment, listed)
    # the default stands in an experiment's record too, where nobody asked for it
    asked_for = experiment.report.references != Reporting().references
    for reference in experiment.report.references:
        if asked_for and reference not in names:
            raise unknown("method in report.references", reference, names)
    designs(experiment, {variant.name: variant for variant in listed}, list(experiment.datasets))
    return experiment


def _with_numbers(value: Any) -> Any:
    """Return content with its numbers in exponent form as floats; keys and values of TEXTS stay as they are.

    PyYAML, Snakemake's reader too, follows YAML 1.1 and takes 1e-4 for text: it wants a point and a signed exponent.
    """
    if isinstance(value, Mapping):
        return {key: inner if key in TEXTS else _with_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_numbers(inner) for inner in value]
    if isinstance(value, str) and EXPONENT.fullmatch(value):
        return float(value)
    return value


def _check_co_trained(names: Sequence[str], listed: Mapping[str, Variant]) -> None:
    """Refuse methods that cannot be one job: chains of jobs, and methods of different teachers."""
    for name in names:
        if name not in listed:
            raise unknown("method in co_train", name, listed)
        if listed[name].chain or listed[name].linked:
            raise UserError(f"co_train: {name} is a chain of jobs and cannot be trained beside other methods")
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
        if not _is_path_part(link.network):
            raise UserError(f"methods.{link.name}.assistants: give the architecture '{link.network}' a name in models")
        check_architecture(model_settings(experiment, link.network).arch)


def _check_class_shares(experiment: Experiment, listed: Sequence[Variant]) -> None:
    """Refuse a share of the classes for networks that learn from teachers: a student's images are its data set's."""
    students = {pair.student for pair in experiment.pairs}
    students |= {link.network for variant in listed for link in variant.lineage if link.network is not None}
    students |= {str((experiment.continual or {}).get("student"))}
    for name, settings in experiment.models.items():
        if settings.classes is not None and name in students:
            raise UserError(f"models.{name}.classes: only a teacher learns a share of the classes, {name} is a student")


def checked(model: type[Settings], content: Mapping[str, Any], where: str) -> Settings:
    """Validate into a settings model; the first problem becomes one sentence."""
    try:
        return model(**content)
    except ValidationError as error:
        # a misspelt key also makes the right one missing: the misspelling is what helps
        problem = next((one for one in error.errors() if one["type"] == "extra_forbidden"), None)
        if problem is not None:
            owner = _model_at(model, problem["loc"][:-1])
            place = ".".join([where, *map(str, problem["loc"][:-1])]).strip(".")
            raise unknown(f"key in {place}" if place else "key", problem["loc"][-1], owner.model_fields) from error
        raise UserError(first_problem(error, where)) from error


def merged_recipe(base: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    """Return a recipe with some keys replaced, checked as a whole."""
    if not changes:
        return base
    return checked(Recipe, {**base.model_dump(exclude_unset=False), **changes}, where)


def student_recipe(experiment: Experiment, student: str, variant: Variant) -> Recipe:
    """Return the recipe of a variant's runs: the experiment's, with what the network and then the variant change."""
    settings = model_settings(experiment, student)
    recipe = merged_recipe(experiment.recipe, settings.recipe, f"models.{student}.recipe")
    return merged_recipe(recipe, variant.recipe, f"methods.{variant.name}.recipe")


def model_settings(experiment: Experiment, name: str) -> ModelSettings:
    """Return the settings behind a network's name; a name without an entry is an architecture."""
    return experiment.models.get(name) or ModelSettings(arch=name)


def variants(experiment: Experiment) -> list[Variant]:
    """Resolve the methods of an experiment; names must differ. Of a chain of runs it is the last that is returned."""
    resolved = [_variant(experiment, entry, f"methods[{i}]") for i, entry in enumerate(experiment.methods)]
    resolved = [with_links(variant, resolved, f"methods[{i}]") for i, variant in enumerate(resolved)]
    names = [variant.name for variant in resolved]
    taken = names + [link.folder for variant in resolved for link in variant.lineage if link.suffix]
    for name in names:
        if taken.count(name) > 1:
            raise UserError(f"methods: two variants are named '{name}': give one of them another name")
    return resolved


def _variant(experiment: Experiment, entry: str | dict[str, Any], where: str) -> Variant:
    content: dict[str, Any] = {"method": entry} if isinstance(entry, str) else dict(entry)
    if ("method" in content) == ("combine" in content):
        raise UserError(f"{where}: give either method or combine, found {sorted(map(str, content))}")
    if "combine" in content:
        parts = _combined(content, where)
    else:
        settings = {key: value for key, value in content.items() if key not in ENTRY_KEYS}
        parts = [_part(content["method"], settings, where)]
        if not card(parts[0][0]).alone:
            raise UserError(
                f"{where}: {parts[0][0]} has no loss of its own: combine it, as in combine: [kd, {parts[0][0]}]"
            )
    name = content.get("name", content.get("method"))
    variant = Variant(str(name), tuple(parts), content.get("recipe", {}), content.get("teacher"))
    _check_variant(experiment, variant, where)
    return variant


def _combined(content: dict[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    if "name" not in content:
        raise UserError(f"{where}: a combination needs a name")
    for key in content:
        if key not in ENTRY_KEYS:
            raise unknown(f"key in {where}", key, ENTRY_KEYS)
    parts = []
    for i, part in enumerate(content["combine"]):
        part = {"method": part} if isinstance(part, str) else dict(part)
        if "method" not in part:
            raise UserError(f"{where}.combine[{i}]: key method is missing")
        name = part.pop("method")
        parts.append(_part(name, part, f"{where}.combine[{i}]"))
    names = [name for name, _ in parts]
    if len(parts) < 2 or len(set(names)) < len(names):
        raise UserError(f"{where}.combine: needs at least two different methods, found {names}")
    if any(card(name).chain or card(name).links != "none" for name in names):
        raise UserError(f"{where}.combine: a method that runs as a chain of jobs cannot be combined, found {names}")
    for name, settings in parts:
        reasons = [card(name).uncombined, *(s.uncombined for key, s in card(name).settings.items() if settings[key])]
        if any(reasons):
            raise UserError(f"{where}.combine: {name} {next(filter(None, reasons))} and cannot be combined with others")
    return parts


def _part(name: object, settings: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    method = card(str(name))
    return method.name, method.resolve(settings, where).model_dump(mode="json")


def _check_variant(experiment: Experiment, variant: Variant, where: str) -> None:
    if not _is_path_part(variant.name):
        raise UserError(f"{where}.name: letters, digits, '_' and '.' only, found '{variant.name}'")
    recipe = merged_recipe(experiment.recipe, variant.recipe, f"{where}.recipe")
    mixing = recipe.mixup_alpha > 0 or recipe.cutmix_alpha > 0
    for name, _ in variant.parts:
        if mixing and not card(name).mixed_labels:
            raise UserError(f"{where}: method {name} is not defined for MixUp or CutMix, set both alphas to 0 for it")
    _check_momentum(experiment, variant, where)
    if variant.chain:
        ((_, settings),) = variant.parts
        for stage in range(1, stages(settings) + 1):
            stage_settings(settings, stage, STUDENT_UPDATE, recipe.epochs)
    for pair in experiment.pairs:
        if variant.teacher is not None and variant.teacher not in pair.teachers:
            raise unknown(f"teacher in {where} for student {pair.student}", variant.teacher, pair.teachers)
        if variant.teachers == "many" and len(pair.teachers) < 2:
            raise UserError(f"{where}: {variant.name} needs several teachers, the pair has only {pair.teachers[0]}")


def _check_momentum(experiment: Experiment, variant: Variant, where: str) -> None:
    """Refuse settings that change the momentum where a recipe has none to change, for any student."""
    changing = [
        (name, key, settings[key])
        for name, settings in variant.parts
        for key in settings
        if card(name).settings[key].momentum_offset
    ]
    students = dict.fromkeys(pair.student for pair in experiment.pairs)
    recipes = [student_recipe(experiment, student, variant) for student in students] if changing else []
    for (name, key, offset), recipe in product(changing, recipes):
        momentum = recipe.momentum
        if recipe.optimizer != "sgd" or recipe.nesterov:
            found = f"{recipe.optimizer} with nesterov" if recipe.nesterov else recipe.optimizer
            raise UserError(f"{where}: method {name} needs recipe.optimizer sgd without nesterov, found {found}")
        if momentum - offset < 0 or momentum + offset >= 1:
            raise UserError(
                f"{where}: recipe.momentum less and plus {key} of method {name} must lie from 0 to below 1, found "
                f"{momentum:g} and {offset:g}"
            )


def _is_path_part(name: str) -> bool:
    return bool(name) and name[0].isalnum() and all(c.isalnum() or c in "_." for c in name)


def _named_models(experiment: Experiment) -> dict[str, ModelSettings]:
    names: Sequence[str] = [name for pair in experiment.pairs for name in (*pair.teachers, pair.student)]
    return {name: model_settings(experiment, name) for name in names}


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    """Follow an error's location to the model whose key was wrong."""
    kind: Any = model
    for part in location:
        kind = _inner(kind.model_fields[part].annotation if _is_model(kind) else get_args(kind)[-1])
    assert _is_model(kind), f"{location} does not lead to a settings model"
    return kind


def _inner(kind: Any) -> Any:
    """Drop None from an optional type."""
    if get_origin(kind) in {Union, types.UnionType}:
        return next(option for option in get_args(kind) if option is not type(None))
    return kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)

"""What settings cannot mean together: recipes against themselves, against the images and the networks."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from kd.schema.architectures import blocks_of
from kd.schema.config import DatasetSettings, Experiment, ModelSettings, Recipe, Strict
from kd.tools.errors import UserError, did_you_mean, shown, unknown

SIDES = {"digits": 8, "cifar10": 32, "cifar100": 32, "imagenet32": 32}
"""Side of the images of a source in pixels, where image_size does not change it."""
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "imagenet32": 1000, "imagenet100": 100}
IMAGES = {"digits": 1797, "cifar10": 50_000, "cifar100": 50_000, "imagenet32": 1_281_167}
"""No training split has more."""
CLASS_NAMES = {
    "digits": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
MOST_RUNS = 200_000
"""Students of one experiment, all seeds counted: planning more would take hours."""


def check_recipe(experiment: Experiment, recipe: Recipe, given: Mapping[str, Any], where: str) -> None:
    """Refuse a recipe that works against itself or the images, and what is `given` at `where` and does nothing."""
    for sentence in _contradictions(recipe):
        raise UserError(f"{where}.{sentence}")
    _check_given(recipe, given, where)
    _check_batch(experiment, recipe, where)
    for dataset in experiment.datasets.values():
        _check_images(recipe, dataset, where)


def _contradictions(recipe: Recipe) -> Iterator[str]:
    ends = [m * recipe.epochs if m < 1 else m for m in recipe.milestones]
    if recipe.min_lr > recipe.lr:
        yield f"min_lr: must be at most lr ({recipe.lr:g}), found {recipe.min_lr:g}"
    if any(later <= earlier for earlier, later in pairwise(ends)):
        yield f"milestones: must rise from one to the next, found {recipe.milestones}"
    if recipe.nesterov and recipe.optimizer != "sgd":
        yield f"nesterov: belongs to optimizer sgd, found {recipe.optimizer}"
    if recipe.ema_start_decay is not None and recipe.ema_start_decay > (recipe.ema_decay or 0):
        yield f"ema_start_decay: must be at most ema_decay ({recipe.ema_decay:g}), found {recipe.ema_start_decay:g}"


def _check_given(recipe: Recipe, given: Mapping[str, Any], where: str) -> None:
    """Refuse settings that were given and do nothing beside the rest of the recipe."""
    off = {
        "gamma": recipe.schedule not in {"step", "plateau"} and f"with schedule {recipe.schedule}",
        "lr_drops": recipe.schedule != "plateau" and f"with schedule {recipe.schedule}",
        "min_lr": recipe.schedule == "constant" and "with schedule constant",
        "momentum": recipe.optimizer != "sgd" and f"with optimizer {recipe.optimizer}",
        "betas": recipe.optimizer == "sgd" and "with optimizer sgd",
        "grad_clip_hold": recipe.grad_clip_final is None and "without grad_clip_final",
        "ema_every": recipe.ema_decay is None and "without ema_decay",
        "ema_warmup_epochs": recipe.ema_start_decay is None and "without ema_start_decay",
    }
    _refuse_idle(recipe, given, off, where)
    crop = recipe.augmentation.crop
    padding = {"padding": crop != "padded" and f"with crop {crop}"}
    _refuse_idle(recipe.augmentation, given.get("augmentation", {}), padding, f"{where}.augmentation")


def _refuse_idle(settings: Strict, given: Iterable[str], off: Mapping[str, str | bool], where: str) -> None:
    """Refuse a given setting that `off` says why it does nothing."""
    for key in given:
        value = getattr(settings, key)
        if off.get(key) and value != type(settings).model_fields[key].default:
            raise UserError(f"{where}.{key}: does nothing {off[key]}, found {shown(value)}")


def _check_images(recipe: Recipe, dataset: DatasetSettings, where: str) -> None:
    """Refuse an augmentation that is larger than the images, as far as their size is known."""
    side = dataset.image_size or SIDES.get(dataset.source)
    augmentation = recipe.augmentation
    if side is None:
        return
    if augmentation.cutout is not None and augmentation.cutout > side:
        raise UserError(
            f"{where}.augmentation.cutout: must be at most the side of the images ({side}), found {augmentation.cutout}"
        )
    if augmentation.crop == "padded" and augmentation.padding >= side:
        raise UserError(
            f"{where}.augmentation.padding: must be below the side of the images ({side}), found {augmentation.padding}"
        )


def check_dataset(name: str, dataset: DatasetSettings) -> None:
    """Refuse classes and numbers of images that the source does not have."""
    where, kept, known = f"datasets.{name}", dataset.class_subset, CLASSES.get(dataset.source)
    if kept is not None:
        if len(set(kept)) < len(kept):
            raise UserError(f"{where}.class_subset: every class is named once, found {kept[:20]}")
        last = (known or 0) - (dataset.source != "imagenet32")  # which names its classes from 1
        outside = [one for one in kept if isinstance(one, int) and known is not None and one > last]
        if known is not None and outside:
            raise UserError(f"{where}.class_subset: {dataset.source} has classes 0 to {known - 1}, found {outside[0]}")
        named = CLASS_NAMES.get(dataset.source, ())
        strange = [one for one in kept if isinstance(one, str) and named and one not in named]
        if strange:
            raise UserError(f"{where}.class_subset: {unknown(f'class of {dataset.source}', strange[0], named)}")
    _check_numbers(where, dataset, len(kept) if kept is not None else known or 2)


def _check_numbers(where: str, dataset: DatasetSettings, classes: int) -> None:
    """Refuse subsets and validation splits that cannot be taken, as far as the source is known."""
    size, most = dataset.subset_size, IMAGES.get(dataset.source)
    carved = dataset.source in {"digits", "cifar10", "cifar100"} and not (
        dataset.split_ratios and dataset.split_ratios.val
    )
    if carved and dataset.validation == 0:
        raise UserError(
            f"{where}.validation: {dataset.source} has no validation split of its own, give a share above 0"
        )
    least = 2 if carved else 1  # of a class: one to train with and one to validate with
    if size is not None and size < least * classes:
        raise UserError(f"{where}.subset_size: needs {least} of each of {classes} classes, found {size}")
    if size is not None and most is not None and size > most:
        raise UserError(f"{where}.subset_size: {dataset.source} has {most} images, found {size}")


def _check_batch(experiment: Experiment, recipe: Recipe, where: str) -> None:
    """Refuse a batch larger than every source; one of a whole subset is let be."""
    images = [IMAGES.get(dataset.source) for dataset in experiment.datasets.values()]
    most = max((count for count in images if count is not None), default=None)
    if most is not None and None not in images and recipe.batch_size > most:
        raise UserError(f"{where}.batch_size: there are at most {most} training images, found {recipe.batch_size}")


def check_used(experiment: Experiment, more: Iterable[str]) -> None:
    """Refuse settings of a network that no run uses: a misspelt name would drop them in silence."""
    used = {name for pair in experiment.pairs for name in (*pair.teachers, pair.student)} | set(more)
    for name in experiment.models:
        if name not in used:
            near = did_you_mean(name, used)
            raise UserError(f"models.{name}: nothing uses this network: {near}used are {', '.join(sorted(used))}")


def check_network(name: str, settings: ModelSettings) -> None:
    """Refuse more trained blocks than there are."""
    blocks = blocks_of(settings.arch)
    if settings.pretrained is True and blocks is not None:
        raise UserError(f"models.{name}.pretrained: true is for timm's networks, {settings.arch} takes a file's path")
    if blocks is not None and settings.freeze > blocks:
        raise UserError(f"models.{name}.freeze: {settings.arch} has {blocks} blocks, found {settings.freeze}")


def check_size(experiment: Experiment, methods: int) -> None:
    """Refuse more runs than can be planned."""
    runs = len(experiment.datasets) * len(experiment.pairs) * methods * len(experiment.seeds)
    if runs > MOST_RUNS:
        raise UserError(
            f"the experiment asks for {runs} runs (data sets x pairs x methods x seeds), allowed {MOST_RUNS}"
        )

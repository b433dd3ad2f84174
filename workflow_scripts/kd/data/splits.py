"""Choose which images train and which validate: seeded, stratified, the same on every platform."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd.schema.config import ClassShare, DatasetSettings, SplitRatios
from kd.tools.errors import UserError, printable, unknown


@dataclass(frozen=True)
class Split:
    """Rows of the packed training split, each sorted ascending."""

    train: np.ndarray
    validation: np.ndarray


def class_map(classes: Sequence[str], class_subset: Sequence[str | int] | None) -> np.ndarray:
    """Return for each packed label its new label, -1 where `class_subset` leaves the class out.

    New labels follow the order of `class_subset`. Its entries are names; a number is the class of that name, and counts
    the classes from 0 only where no class is named by a number, for names stand in order as text: 0, 1, 10, 11, 2.
    Errors: UserError for a class that does not exist, is not clear or stands twice.
    """
    if class_subset is None:
        return np.arange(len(classes))
    mapping = np.full(len(classes), -1, np.int64)
    for new, wanted in enumerate(class_subset):
        old = _class_index(classes, wanted)
        if mapping[old] >= 0:
            raise UserError(f"class_subset names class '{printable(classes[old])}' twice")
        mapping[old] = new
    return mapping


def classes_taken(classes: Sequence[str], mapping: np.ndarray) -> list[str]:
    """Return the names of the classes that a class map takes, in the order of their new labels."""
    kept = np.flatnonzero(mapping >= 0)
    return [classes[old] for old in kept[np.argsort(mapping[kept])]]


def _class_index(classes: Sequence[str], wanted: str | int) -> int:
    name = str(wanted)
    if name in classes:
        return list(classes).index(name)
    if isinstance(wanted, str):
        alike = [index for index, given in enumerate(classes) if _composed(given) == _composed(wanted)]
        if len(alike) == 1:  # macOS writes accents behind their letters, keyboards do not
            return alike[0]
        raise unknown("class in class_subset", wanted, classes)
    numbered = [index for index, given in enumerate(classes) if _is_number(given)]
    if numbered:
        same = [index for index in numbered if int(classes[index]) == wanted]
        if len(same) == 1:  # 2 is the folder 02
            return same[0]
        raise unknown("class in class_subset", wanted, classes)
    if not 0 <= wanted < len(classes):
        raise UserError(f"class_subset names class {wanted}, allowed are 0 to {len(classes) - 1}")
    return wanted


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isascii() and name.removeprefix("-").isdigit()


def make_split(
    labels: np.ndarray,
    settings: DatasetSettings,
    seed: int,
    own_validation: bool = False,
    classes: Sequence[str] = (),
) -> Split:
    """Take the training subset and carve the validation split from it.

    `labels` are those of the packed training split; rows with a negative label (classes left out) are never taken.
    With `own_validation` (the source has a "val" split) nothing is carved and `validation` is empty. `classes` are the
    labels' names, for messages.
    Errors: UserError for a subset that cannot be taken, and for no validation at all.
    """
    chosen = _subset(labels, settings, np.random.default_rng([seed, 0]))
    if own_validation:
        return Split(chosen, chosen[:0])
    if settings.validation == 0:
        raise UserError("validation is 0 but the data set has no val split of its own: give a share between 0 and 1")
    counts = _class_counts(labels[chosen])
    if counts.min() < 2:
        images = _images_of_smallest(counts, classes, "training ")
        raise UserError(f"{images}, too few for a train and a validation split")
    rng = np.random.default_rng([seed, 1])
    total = max(1, round(settings.validation * len(chosen)))
    carved = _take(labels, chosen, np.minimum(_apportion(counts, total, rng), counts - 1), rng)
    return Split(np.setdiff1d(chosen, carved, assume_unique=True), carved)


def _subset(labels: np.ndarray, settings: DatasetSettings, rng: np.random.Generator) -> np.ndarray:
    rows, size = np.flatnonzero(labels >= 0), settings.subset_size
    if size is None or size == len(rows):
        return rows
    if size > len(rows):
        raise UserError(f"subset_size is {size}, but there are only {len(rows)} training images")
    if settings.subset == "uniform":
        return np.sort(_shuffled(rows, rng)[:size])
    counts = _class_counts(labels[rows])
    if size < len(counts):
        raise UserError(
            f"subset_size is {size}, below the {len(counts)} classes of which a stratified subset needs one"
        )
    return _take(labels, rows, _apportion(counts, size, rng), rng)


def classes_of(share: ClassShare, classes: int, seed: int) -> np.ndarray:
    """Return the sorted classes that one of two teachers learns.

    A seeded shuffle of all classes; the first round(overlap * classes) are both teachers', the rest is halved, an odd
    one goes to the first. A larger overlap of the same seed shares all classes that a smaller one does.
    Errors: UserError where fewer than two classes are left.
    """
    order = _shuffled(np.arange(classes), np.random.default_rng([seed, 3]))
    shared = round(share.overlap * classes)
    middle = shared + (classes - shared + 1) // 2
    own = order[shared:middle] if share.side == "first" else order[middle:]
    if shared + len(own) < 2:
        raise UserError(
            f"models: classes with overlap {share.overlap:g}, side {share.side}, leave a teacher {shared + len(own)} "
            f"of {classes} classes, it needs at least two"
        )
    return np.sort(np.concatenate([order[:shared], own]))


def divide(
    labels: np.ndarray, ratios: SplitRatios, seed: int, where: str, classes: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Divide images into "train", "test" and, if asked for, "val", in each class by the same shares.

    `classes` are names for messages. Returns sorted rows.
    Errors: UserError for a class with too few images to have one in each split.
    """
    shares = {"test": ratios.test} | ({"val": ratios.val} if ratios.val else {})
    rng = np.random.default_rng([seed, 2])
    counts = _class_counts(labels)
    if counts.min() <= len(shares):
        images = _images_of_smallest(counts, classes)
        raise UserError(f"{where}: {images}, too few for {len(shares) + 1} splits")
    left, parts = np.arange(len(labels)), {}
    for split, share in shares.items():
        wanted = np.maximum(1, np.floor(share * counts + 0.5).astype(np.int64))
        parts[split] = _take(labels, left, np.minimum(wanted, _class_counts(labels[left]) - 1), rng)
        left = np.setdiff1d(left, parts[split], assume_unique=True)
    return {"train": left} | parts


def _images_of_smallest(counts: np.ndarray, classes: Sequence[str], kind: str = "") -> str:
    """Say how many images the smallest class has, by its name where that is known."""
    label, count = int(counts.argmin()), counts.min()
    name = f"'{printable(classes[label])}'" if classes else str(label)
    return f"class {name} has {count} {kind}image{'' if count == 1 else 's'}"


def _class_counts(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels)


def _apportion(counts: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Divide `total` over classes by largest remainder, ties drawn, with at least one each where it suffices."""
    exact = counts * (total / counts.sum())
    shares = np.floor(exact).astype(np.int64)
    order = np.lexsort((rng.random(len(counts)), shares - exact))
    shares[order[: total - shares.sum()]] += 1
    if total >= len(counts):
        for empty in np.flatnonzero(shares == 0):
            shares[shares.argmax()] -= 1
            shares[empty] = 1
    return shares


def _take(labels: np.ndarray, rows: np.ndarray, amounts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw `amounts[c]` of the rows of each class c; sorted."""
    drawn = [_shuffled(rows[labels[rows] == label], rng)[:amount] for label, amount in enumerate(amounts)]
    return np.sort(np.concatenate(drawn))


def _shuffled(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # Ranking uniform draws relies on PCG64's doubles alone, which no numpy release changes, unlike `shuffle`.
    return rows[np.argsort(rng.random(len(rows)), kind="stable")]

"""Published numbers that may stand beside ours: the same data, teachers and student, the same choice of epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.schema.cards import Published

ALONE = {"-", "none", ""}  # how a card says that a student was trained without teacher


def published_beside(
    entries: Sequence[Published], dataset: Mapping[str, Any], teachers: Sequence[str], student: str
) -> dict[str, Published]:
    """Return the first entry of a card for each epoch label that speaks of this very setting, else nothing.

    teachers and student are architectures. Only the whole of CIFAR-100, at its own 32 pixels, has numbers to compare
    with.
    """
    cut = dataset.get("subset_size") or dataset.get("class_subset")
    if dataset.get("source") != "cifar100" or cut or dataset.get("image_size") not in {None, 32}:
        return {}
    found: dict[str, Published] = {}
    for entry in entries:
        named = [] if entry.teacher in ALONE else entry.teacher.split("+")
        if entry.dataset == "cifar100" and named == list(teachers) and entry.student == student:
            found.setdefault(entry.epoch, entry)
    return found

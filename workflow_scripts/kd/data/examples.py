"""A few images of a data set, for people to look at."""

import io
from collections.abc import Iterator

import numpy as np

from kd.data.packed import Packed

MOST_CLASSES = 24
SIDE = 64
"""Pixels: larger images are made smaller."""


def first_images(packed: Packed) -> Iterator[tuple[str, bytes]]:
    """Yield the first training image of each of the first classes: the class's name and a PNG."""
    labels = packed.labels["train"]
    for label, name in enumerate(packed.classes[:MOST_CLASSES]):
        places = np.flatnonzero(labels == label)
        if len(places):
            yield name, as_png(packed.images["train"][places[0]])


def as_png(image: np.ndarray) -> bytes:
    """Return an image (3, S, S) uint8 as a PNG of at most SIDE pixels."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def images_per_class(packed: Packed, split: str) -> list[int]:
    """Return how many images of each class a split has."""
    return np.bincount(packed.labels[split], minlength=packed.num_classes).tolist()

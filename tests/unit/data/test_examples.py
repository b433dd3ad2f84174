"""Images of a data set that people look at."""

import io

import numpy as np
import pytest
from PIL import Image

from kd.data.examples import MOST_CLASSES, SIDE, as_png, first_images, images_per_class


class Few:
    """Packed images, as far as these functions look at them."""

    def __init__(self, labels, classes, side=4):
        self.labels = {"train": np.array(labels)}
        self.classes, self.num_classes = classes, len(classes)
        self.images = {"train": np.zeros((len(labels), 3, side, side), np.uint8)}
        self.images["train"][:, 0] = np.arange(len(labels), dtype=np.uint8)[:, None, None]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_each_class_shows_its_first_image():
    found = dict(first_images(Few([1, 0, 1, 0, 3], ["a", "b", "none of these", "d"])))
    assert {name: pixels(png)[0, 0].tolist() for name, png in found.items()} == {
        "a": [1, 0, 0],
        "b": [0, 0, 0],
        "d": [4, 0, 0],
    }


def test_of_many_classes_the_first_are_shown():
    names = [str(label) for label in range(200)]
    assert len(list(first_images(Few(range(200), names)))) == MOST_CLASSES


@pytest.mark.parametrize(("side", "shown"), [(8, 8), (SIDE, SIDE), (224, SIDE)])
def test_large_images_are_made_smaller(side, shown):
    image = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    found = pixels(as_png(image))
    assert found.shape == (shown, shown, 3)
    if side == shown:
        assert np.array_equal(found, image.transpose(1, 2, 0))


def test_images_of_each_class_are_counted():
    assert images_per_class(Few([1, 1, 3], list("abcd")), "train") == [0, 2, 0, 1]

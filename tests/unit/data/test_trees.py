"""Trees of class folders, and what their readers refuse."""

import shutil

import numpy as np
import pytest
from data_builders import archive_of, write_image, write_tree

from kd.data.packed import Packed
from kd.data.packing import pack
from kd.data.source import open_source
from kd.spec.config import DatasetSettings, SplitRatios
from kd.spec.errors import UserError

HALVES = SplitRatios(train=0.5, test=0.5)


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "tree")


def open_tree(root=None, archives=(), **settings):
    listed = [str(path) for path in archives]
    return open_source(
        DatasetSettings(source="imagefolder", root=str(root) if root else None, archives=listed, **settings)
    )


def packed(folder, root=None, archives=(), **settings) -> Packed:
    listed = [str(path) for path in archives]
    pack(
        DatasetSettings(source="imagefolder", root=str(root) if root else None, archives=listed, **settings),
        folder,
        1,
        False,
    )
    return Packed(folder)


@pytest.mark.parametrize(
    ("folders", "splits", "sizes"),
    [
        (("train", "test"), {"train", "test"}, {"train": 12, "test": 12}),
        (("train", "val"), {"train", "test"}, {"train": 12, "test": 12}),
        (("train", "validation"), {"train", "test"}, {"train": 12, "test": 12}),
        (("train", "val", "test"), {"train", "val", "test"}, {"train": 12, "val": 12, "test": 12}),
        (("train", "test", "notes"), {"train", "test"}, {"train": 12, "test": 12}),
    ],
)
def test_split_folders(tmp_path, folders, splits, sizes):
    source = open_tree(write_tree(tmp_path / "t", folders))
    assert set(source.labels) == splits
    assert {split: len(labels) for split, labels in source.labels.items()} == sizes


def test_val_stands_in_for_test_and_keeps_its_own_images(tmp_path):
    data = packed(tmp_path / "p", root=write_tree(tmp_path / "t", ("train", "val")))
    assert data.images["test"][0, 0, 1, 1] == 60  # write_tree numbers images through all splits, five apart


@pytest.mark.parametrize("lone", ["", "test", "train", "photos"])
def test_one_root_is_divided_by_class(tmp_path, lone):
    root = write_tree(tmp_path / "t", (lone,), count=10)
    ratios = SplitRatios(train=0.7, val=0.1, test=0.2)
    labels = open_tree(root, split_ratios=ratios).labels
    assert {split: np.bincount(values).tolist() for split, values in labels.items()} == {
        "train": [7] * 3,
        "test": [2] * 3,
        "val": [1] * 3,
    }


def test_classes_named_like_splits_are_classes(tmp_path):
    """CIFAR-100 has a class 'train'."""
    root = write_tree(tmp_path / "t", ("train", "test"), ("test", "train", "tulip"))
    assert open_tree(root).classes == ["test", "train", "tulip"]
    assert open_tree(root / "train", split_ratios=HALVES).classes == ["test", "train", "tulip"]


def test_division_follows_its_seed(tmp_path):
    root = write_tree(tmp_path / "t", ("",), count=20)
    digests = [
        packed(tmp_path / "p", root=root, split_ratios=HALVES, split_seed=seed).manifest["digests"]
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_other_files_and_hidden_ones_are_passed_over(tmp_path, tree):
    (tree / "train" / "ant" / "Thumbs.db").write_bytes(b"x")
    (tree / "train" / "ant" / "._0.png").write_bytes(b"x")
    (tree / "readme.txt").write_text("x", encoding="utf-8")
    (tree / ".cache").mkdir()
    write_image(tree / "__MACOSX" / "train" / "ant" / "0.png", 1)
    assert len(open_tree(tree).labels["train"]) == 12


def test_images_below_subfolders_belong_to_their_class(tmp_path, tree):
    write_image(tree / "train" / "ant" / "more" / "9.png", 1)
    assert np.bincount(open_tree(tree).labels["train"]).tolist() == [5, 4, 4]


def remove(path):
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (remove, {}, "does not exist: expected a folder of class folders"),
        (lambda root: (root / "train" / "dog").mkdir(), {}, "class folder train/dog holds no images"),
        (
            lambda root: remove(root / "test" / "bee"),
            {},
            "train and test have different classes: 'bee' is only in train",
        ),
        (lambda root: write_image(root / "test" / "dog" / "1.png", 1), {}, "'dog' is only in test"),
        (lambda root: remove(root / "train"), {}, "needs a train folder and a val or test folder.*found test"),
        (lambda root: remove(root / "test"), {}, "needs a train folder and a val or test folder.*found train"),
        (lambda root: None, {"split_ratios": HALVES}, "split_ratios divides one undivided root.*has train and test"),
        (lambda root: write_tree(root, ("val", "valid")), {}, "has both val and valid"),
        (lambda root: [p.rename(p.with_suffix(".txt")) for p in root.rglob("*.png")], {}, "holds no images"),
        (lambda root: [remove(root / s / c) for s in ("train", "test") for c in ("ant", "bee")], {}, "1 class .cat."),
    ],
)
def test_trees_that_cannot_be_used(tmp_path, tree, change, settings, message):
    change(tree)
    with pytest.raises(UserError, match=message):
        open_tree(tree, **settings)


def test_class_with_too_few_images_for_the_ratios(tmp_path):
    root = write_tree(tmp_path / "t", ("",), count=2)
    with pytest.raises(UserError, match="class 0 has 2 images, too few for 3 splits"):
        open_tree(root, split_ratios=SplitRatios(train=0.6, val=0.2, test=0.2))


def test_root_that_is_an_archive(tmp_path, tree):
    with pytest.raises(UserError, match=r"is a file .list archives under archives."):
        open_tree(archive_of(tree, tmp_path / "a.zip"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("ant\nbeee\n", "unknown class in .*list.txt.*'beee': did you mean 'bee'"),
        ("ant\nbee\nant\n", "names class ant twice"),
        ("ant\n", "names 1 classes, at least 2"),
        (None, "cannot be read"),
    ],
)
def test_class_lists_that_cannot_be_used(tmp_path, lines, message):
    root = write_tree(tmp_path / "t", ("train", "val"))
    if lines is not None:
        (tmp_path / "list.txt").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        open_source(DatasetSettings(source="imagenet100", root=str(root), class_list=str(tmp_path / "list.txt")))


def test_imagenet100_needs_train_and_val(tmp_path, tree):
    (tmp_path / "list.txt").write_text("ant\nbee\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no folder val"):
        open_source(DatasetSettings(source="imagenet100", root=str(tree), class_list=str(tmp_path / "list.txt")))

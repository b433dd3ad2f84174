"""Trees of class folders, and what their readers refuse."""

import errno
import os
import shutil
import socket
import sys

import numpy as np
import pytest
from data_builders import archive_of, write_image, write_tree
from PIL import Image

from kd.data.packed import Packed
from kd.data.packing import pack
from kd.data.source import open_source
from kd.schema.config import DatasetSettings, SplitRatios
from kd.tools.errors import UserError

HALVES = SplitRatios(train=0.5, test=0.5)

UTF8_NAMES = pytest.mark.skipif(
    sys.getfilesystemencoding() != "utf-8", reason="this locale names files in another encoding than UTF-8"
)


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


JUNK = [
    *(".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000", "lost+found", "System Volume Information"),
    *("$RECYCLE.BIN", ".git", ".thumbnails", "__pycache__", "#recycle", "@Recently-Snapshot", ".AppleDouble"),
]


def as_directory(root, _tmp_path):
    return open_tree(root)


def as_archive(root, tmp_path):
    return open_tree(archives=[archive_of(root, tmp_path / "a.zip")])


@pytest.mark.parametrize("opened", [as_directory, as_archive])
@pytest.mark.parametrize("place", ["", "train", "train/ant", "train/ant/deeper"])
@pytest.mark.parametrize("junk", JUNK)
def test_folders_that_tools_leave_behind_are_no_data(tmp_path, tree, junk, place, opened):
    write_image(tree / place / junk / "ant" / "0.png", 1)
    write_image(tree / place / junk / "0.png", 1)
    (tree / place / junk / "empty").mkdir()
    source = opened(tree, tmp_path)
    assert np.bincount(source.labels["train"]).tolist() == [4, 4, 4]
    assert source.classes == ["ant", "bee", "cat"]
    assert source.passed_over == {f"{junk}/": 1}


@pytest.mark.parametrize("opened", [as_directory, as_archive])
def test_what_is_passed_over_is_counted_by_suffix(tmp_path, tree, opened):
    for place in (
        "train/ant/Thumbs.db",
        "train/bee/desktop.ini",
        "readme.txt",
        "a.TXT",
        "train/labels",
        "train/x.heic",
    ):
        (tree / place).write_bytes(b"x")
    for place in ("train/ant/._0.png", "train/ant/.DS_Store"):
        (tree / place).write_bytes(b"x")
    write_image(tree / "train" / "preview.png", 1)
    write_image(tree / "logo.png", 1)
    source = opened(tree, tmp_path)
    assert {split: len(labels) for split, labels in source.labels.items()} == {"train": 12, "test": 12}
    expected = {".txt": 2, "hidden files": 2, "images in no class folder of a split": 2}
    assert source.passed_over == expected | {".db": 1, ".heic": 1, ".ini": 1, "no suffix": 1}


def test_kinds_that_are_passed_over_are_told_apart_up_to_a_number(tmp_path, tree):
    for k in range(30):
        (tree / f"a.{k:02}").touch()
    assert open_tree(tree).passed_over == {f".{k:02}": 1 for k in range(20)} | {"others": 10}


@pytest.mark.parametrize(
    "suffix", ["jfif", "jpe", "JPG", "Jpeg", "avif", "jp2", "tga", "bmp", "webp", "ppm", "qoi", "PNG"]
)
def test_whatever_pillow_opens_is_taken(tmp_path, tree, suffix):
    for k in range(3):
        with Image.open(tree / "train" / "ant" / f"{k}.png") as image:
            image.save(tree / "train" / "ant" / f"{k}.{suffix}")
        (tree / "train" / "ant" / f"{k}.png").unlink()
    assert packed(tmp_path / "p", root=tree).manifest["counts"]["train"]["per_class"] == {"ant": 4, "bee": 4, "cat": 4}


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/", "../../ant", "deeper"])
def test_links_back_are_not_followed(tree, target):
    write_image(tree / "train" / "ant" / "deeper" / "9.png", 1)
    (tree / "train" / "ant" / "deeper" / "self").symlink_to(tree / "train" / "ant" if target == "deeper" else target)
    source = open_tree(tree)
    assert np.bincount(source.labels["train"]).tolist() == [5, 4, 4]
    assert source.passed_over == {"links in a circle": 1}


def test_classes_and_pictures_may_be_links(tmp_path, tree):
    (tree / "train" / "ant").rename(tmp_path / "elsewhere")
    (tree / "train" / "ant").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tree / "train")
    (tree / "train" / "bee" / "9.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "root").symlink_to(tree)
    source = open_tree(tmp_path / "root")
    assert np.bincount(source.labels["train"]).tolist() == [4, 5, 4]
    assert source.passed_over == {"links in a circle": 1}


@pytest.mark.parametrize(
    ("link", "target", "named"),
    [
        ("train/dog", "ant", "train/dog is a link to the same folder as train/ant"),
        ("train/aardvark", "ant", "train/aardvark is a link to the same folder as train/ant"),
        ("train/ant/more", "../bee", "train/ant/more is a link to the same folder as train/bee"),
        ("val", "test", "val is a link to the same folder as test"),
        ("train/ant/test", "../../test/ant", "train/ant/test is a link to the same folder as test/ant"),
    ],
)
def test_a_folder_that_links_make_two_of_is_refused(tree, link, target, named):
    (tree / link).symlink_to(target)
    with pytest.raises(UserError, match=f"{named}, whose images would count twice"):
        open_tree(tree)


def test_a_link_outside_the_splits_does_no_harm(tree):
    (tree / "all").symlink_to("train")
    assert len(open_tree(tree).labels["train"]) == 12


def test_a_class_folder_that_is_a_broken_link_is_no_missing_class(tree):
    (tree / "train" / "dog").symlink_to("/nowhere")
    with pytest.raises(
        UserError, match="class folder train/dog holds no images; passed over: 1 links that lead nowhere"
    ):
        open_tree(tree)


def test_what_is_no_regular_file_is_never_opened(tree):
    os.mkfifo(tree / "train" / "ant" / "pipe.png")
    (tree / "train" / "ant" / "null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as made:
        there = os.getcwd()
        os.chdir(tree / "train" / "ant")  # a socket's path must be short
        try:
            made.bind("socket.png")
        finally:
            os.chdir(there)
    source = open_tree(tree)
    assert len(source.labels["train"]) == 12
    assert source.passed_over == {"pipes, sockets and devices": 3}


def test_a_folder_that_cannot_be_listed_is_told(tree, monkeypatch):
    listed = os.scandir

    def refusing(path):
        if str(path).endswith("bee"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"folder .*/bee cannot be listed: Permission denied"):
        open_tree(tree)


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9.png", b"two\nlines.png", b"{braces} {0}.png", b"tab\t%s.png", b"\xe2\x80\xae.png"],
    ids=["latin1", "newline", "braces", "tab", "direction"],
)
def test_pictures_may_have_any_name(tmp_path, tree, name):
    path = os.path.join(os.fsencode(tree / "train" / "ant"), name)
    os.rename(tree / "train" / "ant" / "0.png", path)
    assert packed(tmp_path / "p", root=tree).manifest["counts"]["train"]["images"] == 12
    with open(path, "wb"):
        pass
    with pytest.raises(UserError, match=r"is not a readable image: it is empty") as caught:
        packed(tmp_path / "q", root=tree)
    assert str(caught.value).isprintable()


@UTF8_NAMES
def test_class_names_are_text(tree):
    for split in ("train", "test"):
        os.rename(tree / split / "ant", os.path.join(os.fsencode(tree / split), b"caf\xe9"))
    with pytest.raises(UserError, match=r"class 'caf.udce9' has no name that is text in UTF-8"):
        open_tree(tree)


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAIN", "VAL"), ("train", "Valid")])
def test_split_folders_in_capitals(tmp_path, names):
    source = open_tree(write_tree(tmp_path / "t", names))
    assert {split: len(labels) for split, labels in source.labels.items()} == {"train": 12, "test": 12}


def test_classes_that_differ_in_case_are_two(tmp_path):
    assert open_tree(write_tree(tmp_path / "t", classes=("Ant", "ant", "bee"))).classes == ["Ant", "ant", "bee"]


@UTF8_NAMES
@pytest.mark.parametrize("other", ["Ant", "ant ", "\uff41nt"])
def test_classes_that_only_look_alike_are_pointed_at(tree, other):
    (tree / "test" / "ant").rename(tree / "test" / other)
    with pytest.raises(
        UserError, match=f"has '{other}', which only looks the same|has 'ant', which only looks the same"
    ):
        open_tree(tree)


@UTF8_NAMES
@pytest.mark.parametrize("opened", [as_directory, as_archive])
def test_one_class_in_two_spellings_of_unicode_is_refused(tmp_path, opened):
    root = write_tree(tmp_path / "t", classes=("bee", "caf\u00e9", "cafe\u0301"))
    if len(list((root / "train").iterdir())) < 3:
        pytest.skip("this file system takes both spellings for one name")
    with pytest.raises(UserError, match=r"train/caf.+ is there twice, in two spellings of Unicode"):
        opened(root, tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("opened", [as_directory, as_archive])
def test_a_flat_split_folder_is_told_so(tmp_path, tree, opened, split):
    for k, path in enumerate(sorted((tree / split).rglob("*.png"))):
        path.rename(tree / split / f"{k}.png")
    for folder in ("ant", "bee", "cat"):
        (tree / split / folder).rmdir()
    message = f"{split} holds 12 images but no class folders: nothing tells their classes; put each class's images into"
    with pytest.raises(UserError, match=message):
        opened(tree, tmp_path)


def test_a_flat_root_and_an_empty_split_are_told_so(tmp_path, tree):
    for k in range(3):
        write_image(tmp_path / "flat" / f"{k}.png", k)
    with pytest.raises(UserError, match="flat holds 3 images but no class folders: nothing tells their classes"):
        open_tree(tmp_path / "flat", split_ratios=HALVES)
    shutil.rmtree(tree / "test")
    (tree / "test").mkdir()
    with pytest.raises(UserError, match=r"tree: test is empty; put each class's images into a folder of its name"):
        open_tree(tree)


def test_a_root_of_files_that_are_no_pictures(tmp_path):
    for name in ("0001", "0002", "a.heic"):
        (tmp_path / "t" / "train" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / "train" / "a" / name).touch()
    with pytest.raises(UserError, match=r"t holds no images; passed over: 2 no suffix, 1 \.heic"):
        open_tree(tmp_path / "t")


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
    with pytest.raises(UserError, match="class 'ant' has 2 images, too few for 3 splits"):
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

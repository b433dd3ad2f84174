"""What the workflow sees of a data set when it starts: a digest of names, sizes, times, and about how many images."""

import os
from pathlib import Path

import pytest

from kd.formats.cifar import CIFARS
from kd.formats.class_lists import listed_classes
from kd.schema.config import DatasetSettings, SplitRatios
from kd.study.contents import IMAGENET32_FILES, Contents, contents_of
from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.plan import Plan
from kd.tools.errors import UserError

NOTHING = Contents(None, None)


def touch(path: Path, content: bytes = b"picture") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture
def tree(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for name in "ab":
            for k in range(count):
                touch(tmp_path / "tree" / split / name / f"{k}.png")
    return tmp_path / "tree"


def look(root=None, **settings) -> Contents:
    return contents_of(DatasetSettings(**{"source": "imagefolder", "root": root and str(root)} | settings))


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    "change",
    [
        lambda root: touch(root / "train" / "a" / "new.png"),
        lambda root: touch(root / "test" / "b" / "deeper" / "new.JPEG"),
        lambda root: remove(root / "train" / "a" / "0.png"),
        lambda root: (root / "train" / "a" / "0.png").rename(root / "train" / "a" / "9.png"),
        lambda root: (root / "train" / "a" / "0.png").rename(root / "train" / "b" / "9.png"),
        lambda root: touch(root / "train" / "a" / "0.png", b"another size"),
        lambda root: os.utime(root / "train" / "a" / "0.png", ns=(10**18, 10**18 + 1)),
        lambda root: (root / "train").rename(root / "val"),
        lambda root: (root / "train" / "c").mkdir(),
        lambda root: (remove(root / "train" / "a" / "0.png"), (root / "train" / "a" / "0.png").symlink_to("1.png")),
    ],
    ids=["added", "deeper", "removed", "renamed", "class", "size", "time", "split", "folder", "link"],
)
def test_every_change_of_a_folder_is_seen(tree, change):
    before = look(tree)
    if change.__code__.co_names[-1] == "symlink_to":
        os.utime(tree / "train" / "a" / "1.png", ns=(10**18, 10**18 + 5))
        before = look(tree)
    change(tree)
    assert look(tree).digest != before.digest is not None


def test_what_packing_passes_over_changes_nothing(tree):
    before = look(tree)
    for place in ("notes.txt", "train/a/Thumbs.db", "train/a/.hidden.png", "train/.ipynb_checkpoints/0.png"):
        touch(tree / place)
    (tree / "train" / "a" / "self").symlink_to(".")
    assert look(tree) == before


def test_the_digest_knows_no_order_and_no_place(tree, tmp_path):
    for path in sorted(tree.rglob("*.png"), reverse=True):
        touch(tmp_path / "copy" / path.relative_to(tree))
    assert look(tmp_path / "copy") == look(tree)


@pytest.mark.parametrize("wrapped", ["", "data/raw"])
@pytest.mark.parametrize(
    ("train", "ratios", "images"),
    [
        ("train", None, 8),
        ("Train", None, 8),
        ("train", SplitRatios(train=0.5, test=0.5), 6),
        ("photos", SplitRatios(train=0.75, test=0.25), 9),
    ],
)
def test_training_images_are_counted_from_the_names(tree, tmp_path, wrapped, train, ratios, images):
    (tree / "train").rename(tree / train)
    if wrapped:
        (tmp_path / "outer" / "data").mkdir(parents=True)
        tree.rename(tmp_path / "outer" / "data" / "raw")
        tree = tmp_path / "outer"
    assert look(tree, split_ratios=ratios).train_images == images


def test_a_class_named_train_is_no_split(tree):
    touch(tree / "train" / "train" / "0.png")
    touch(tree / "test" / "train" / "0.png")
    assert look(tree).train_images == 9


def test_links_are_looked_through(tree, tmp_path):
    for k in range(3):
        touch(tmp_path / "elsewhere" / f"{k}.png")
    (tree / "train" / "c").symlink_to(tmp_path / "elsewhere")
    before = look(tree)
    assert before.train_images == 11
    touch(tmp_path / "elsewhere" / "0.png", b"replaced")
    assert look(tree).digest != before.digest


@pytest.mark.parametrize("root", ["nowhere", "empty"])
def test_what_is_not_there_has_no_digest(tmp_path, root):
    (tmp_path / "empty" / "train" / "a").mkdir(parents=True)
    assert look(tmp_path / root) == NOTHING
    assert look(tmp_path / root, source="cifar10") == NOTHING
    assert look(tmp_path / root, source="imagenet32") == NOTHING
    assert look(tmp_path / root, source="imagenet100", class_list=str(tmp_path / "list.txt")) == NOTHING
    assert look(archives=[str(tmp_path / "none.tar")]) == NOTHING


def test_what_is_yet_to_be_fetched_has_no_digest(tmp_path):
    touch(tmp_path / "cifar-10-batches-py" / "test_batch")
    assert look(tmp_path, source="cifar10", download=True) == NOTHING
    assert look(source="digits") == NOTHING


def test_files_that_vanish_while_they_are_listed_raise_nothing(tree, monkeypatch):
    (tree / "train" / "a" / "broken.png").symlink_to("nowhere")
    (tree / "train" / "a" / "loop.png").symlink_to("loop.png")
    listed = os.scandir

    def vanishing(path):
        if str(path).endswith("b"):
            raise FileNotFoundError(2, "gone", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert look(tree).train_images == 6


@pytest.mark.parametrize(("name", "images"), [("a.tar", 9), ("a.tar.gz", 40), ("a.tgz", 40), ("a.zip", 40)])
def test_archives_tell_by_size_and_time(tmp_path, name, images):
    path = touch(tmp_path / name, bytes(10_000))
    before = look(archives=[str(path)])
    assert before.train_images == images
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert look(archives=[str(path)]).digest != before.digest is not None
    halved = look(archives=[str(path)], split_ratios=SplitRatios(train=0.5, test=0.5))
    assert halved.train_images == round(images / 2)


@pytest.mark.parametrize("inner", ["", "official"])
@pytest.mark.parametrize("source", ["cifar10", "cifar100", "imagenet32"])
def test_batches_tell_by_size_and_time(tmp_path, source, inner):
    cifar = CIFARS.get(source)
    folder, names = (cifar.folder, cifar.files) if cifar else ("", IMAGENET32_FILES)
    files = [touch(tmp_path / (folder if inner else "") / name) for name in names]
    before = look(tmp_path, source=source)
    assert before.digest is not None
    touch(tmp_path / "readme.txt")
    assert look(tmp_path, source=source) == before
    for file in files:
        touch(file, b"edited")
        assert look(tmp_path, source=source) != before
        touch(file)


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("source", CIFARS)
def test_cifar_in_class_folders_or_archives_is_looked_at_too(tree, tmp_path, source, download):
    def looked(root):
        return look(root, source=source, download=download).digest

    before = looked(tree)
    touch(tree / "train" / "a" / "0.png", b"edited")
    assert looked(tree) != before is not None
    archive = touch(tmp_path / "packed" / "cifar-train.tar.gz")
    before = looked(archive.parent)
    touch(archive, b"edited")
    assert looked(archive.parent) != before is not None


@pytest.mark.parametrize("source", CIFARS)
def test_what_was_fetched_is_what_was_to_be_fetched(tmp_path, source):
    """Fetching makes nothing stale; files that are not the official ones have a digest."""
    archive = touch(tmp_path / CIFARS[source].archive)
    assert look(tmp_path, source=source, download=True).digest is not None
    os.truncate(archive, CIFARS[source].archive_bytes)  # a file of holes
    assert look(tmp_path, source=source, download=True) == NOTHING
    assert look(tmp_path, source=source).digest is not None


def test_listed_classes_are_all_that_is_looked_at(tree, tmp_path):
    (tree / "test").rename(tree / "val")
    names = touch(tmp_path / "list.txt", b"a # ant\n")
    before = look(tree, source="imagenet100", class_list=str(names))
    assert before.train_images == 4
    touch(tree / "train" / "b" / "new.png")
    assert look(tree, source="imagenet100", class_list=str(names)) == before
    touch(names, b"a\nb\n")
    assert look(tree, source="imagenet100", class_list=str(names)).train_images == 9


def test_class_lists(tmp_path):
    assert listed_classes(touch(tmp_path / "list.txt", b"n1 badger\n# none\n\n n2\n")) == ["n1", "n2"]
    with pytest.raises(UserError, match=r"class_list .*list.txt cannot be read"):
        listed_classes(touch(tmp_path / "list.txt", b"\xff\n"))


def test_no_file_is_asked_for_more_than_its_folder_tells(tree, monkeypatch):
    """A million files: one look at each is what there is time for."""
    before = look(tree)
    for function in ("stat", "lstat", "open"):
        monkeypatch.setattr(os, function, lambda path, *_rest, **_more: pytest.fail(f"asked for {path}"))
    monkeypatch.setattr(os.path, "realpath", str)
    assert look(tree) == before


@pytest.mark.parametrize(
    ("epochs", "subset_size", "tuned"), [(6_000, None, False), (6_500, None, True), (6_500, 4, False)]
)
def test_a_small_folder_is_not_worth_tuning(tree, epochs, subset_size, tuned):
    """Eight images, which counted as 100,000 when nobody had looked."""
    dataset = {"source": "imagefolder", "root": str(tree), "image_size": 8, "subset_size": subset_size}
    experiment = {
        "experiment": "unit",
        "datasets": {"d": {**dataset, "validation": 0.5}},
        "pairs": [{"teachers": ["resnet14"], "student": "resnet8"}],
        "methods": ["ce"],
        "seeds": [0],
        "recipe": {"epochs": epochs, "batch_size": 2},
    }
    jobs = Jobs(Plan(check_experiment(experiment)))
    assert bool(jobs.of("train_student", jobs.plan.runs[0]).inputs["tuned"]) is tuned

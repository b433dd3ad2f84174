"""CIFAR in every form: the same arrays, fetched only where nothing is, and damage told."""

import argparse
import gzip
import json
import pickle
import shutil

import numpy as np
import pytest
from data_builders import archive_of, write_cifar, write_cifar_classes

import prepare_data
from kd.data import cifar_pickles
from kd.data.packed import Packed
from kd.data.packing import pack
from kd.data.source import open_source
from kd.formats.cifar import CIFARS
from kd.schema.config import DatasetSettings
from kd.study.contents import contents_of
from kd.tools.errors import UserError

CLASSES = ["cat", "ant", "dog", "bee"]


def packed(root, folder, source, **settings) -> Packed:
    pack(DatasetSettings(source=source, root=str(root), **settings), folder, 1, False)
    return Packed(folder)


@pytest.fixture
def official(tmp_path):
    return lambda source, **more: write_cifar(tmp_path / "official", source=source, names=CLASSES, **more)


@pytest.fixture
def no_network(monkeypatch):
    from torchvision.datasets import utils

    monkeypatch.setattr(utils, "download_url", lambda *_arguments: pytest.fail("asked for the network"))


def as_archives(source, root, official):
    tree = write_cifar_classes(official, root / "tree", source)
    root = root / "packed"
    root.mkdir()
    archive_of(tree, root / "train-1.tar.gz", lambda name: "/train/" in name and name[-5] in "02468")
    archive_of(tree, root / "train-2.zip", lambda name: "/train/" in name and name[-5] in "13579")
    archive_of(tree, root / "test.tar.xz", lambda name: "/test/" in name)
    return root


def as_official_archive(source, root, official):
    root.mkdir()
    archive_of(official, root / CIFARS[source].archive)
    return root


FORMS = {
    "class folders": lambda source, root, official: write_cifar_classes(official, root, source),
    "class archives": as_archives,
    "archive": as_official_archive,
}


@pytest.mark.parametrize("source", CIFARS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_packs_to_the_same_arrays(tmp_path, no_network, official, source, form):
    """Also to the same labels: official files number classes by their alphabet, these ones do not."""
    files = official(source)
    one = packed(files, tmp_path / "1", source, download=True).manifest
    other = packed(FORMS[form](source, tmp_path / "other", files), tmp_path / "2", source, download=True).manifest
    assert one["classes"] == sorted(CLASSES)
    for key in ("digests", "counts", "mean", "std", "shape", "source", "classes"):
        assert one[key] == other[key], key


def test_batches_without_names_of_images_keep_their_order(tmp_path, official):
    root = official("cifar100", titles=False)
    data = packed(root, tmp_path / "p", "cifar100")
    batch = pickle.loads((root / "cifar-100-python" / "train").read_bytes())
    ants = batch["data"][np.array(batch["fine_labels"]) == CLASSES.index("ant")]
    np.testing.assert_array_equal(data.images["train"][:5].reshape(5, -1), ants)
    assert data.labels["train"].tolist() == [k // 5 for k in range(20)]


@pytest.mark.parametrize("source", CIFARS)
def test_what_is_fetched_is_one_whole_file(tmp_path, monkeypatch, official, source):
    from torchvision.datasets import utils

    files, asked = official(source), []

    def fake(url, folder, filename, md5):
        asked.append((url.rpartition("/")[2], filename, len(md5)))
        archive_of(files, tmp_path / filename).rename(f"{folder}/{filename}")

    monkeypatch.setattr(utils, "download_url", fake)
    root = tmp_path / "new" / "root"
    (root / ".download-killed").mkdir(parents=True)
    for _ in range(2):
        fetched = packed(root, tmp_path / "p", source, download=True)
    assert asked == [(CIFARS[source].archive, CIFARS[source].archive, 32)]
    assert [path.name for path in root.iterdir()] == [CIFARS[source].archive]
    assert fetched.manifest["digests"] == packed(files, tmp_path / "q", source).manifest["digests"]


def test_packing_fetches_only_with_leave_and_notes_what_came(tmp_path, monkeypatch, official):
    """What is noted is what a later start without that leave finds there."""
    from torchvision.datasets import utils

    files = official("cifar10")
    whole = archive_of(files, tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.setattr(utils, "download_url", lambda url, folder, name, md5: shutil.copy(whole, f"{folder}/{name}"))
    settings = DatasetSettings(source="cifar10", root=str(tmp_path / "root"))
    asked = {"settings": json.dumps(settings.packing()), "out": tmp_path / "p", "threads": 1}
    with pytest.raises(UserError, match=r"root does not exist: .*download: true fetches it"):
        prepare_data.main(argparse.Namespace(**asked, download=False))
    made = prepare_data.main(argparse.Namespace(**asked, download=True))
    assert made["contents"] == contents_of(settings).digest is not None


def test_a_download_that_was_broken_off_is_fetched_again(tmp_path, monkeypatch, official):
    from torchvision.datasets import utils

    files = official("cifar10")
    whole = archive_of(files, tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.setattr(utils, "download_url", lambda url, folder, name, md5: shutil.copy(whole, f"{folder}/{name}"))
    root = tmp_path / "root"
    root.mkdir()
    (root / whole.name).write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz is damaged or cut short"):
        packed(root, tmp_path / "p", "cifar10")
    assert len(packed(root, tmp_path / "p", "cifar10", download=True).labels["train"]) == 100


def test_a_failed_download_says_what_else_would_do(tmp_path, monkeypatch):
    from torchvision.datasets import utils

    def fail(*_arguments):
        raise OSError("no route to host")

    monkeypatch.setattr(utils, "download_url", fail)
    with pytest.raises(UserError, match=r"cannot download CIFAR10 into .*no route.* may be put there by hand"):
        packed(tmp_path / "new", tmp_path / "p", "cifar10", download=True)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("source", CIFARS)
def test_official_files_must_have_their_checksums(tmp_path, monkeypatch, official, source):
    """A pickle has no sum of its own: by size it is the official one, by content it is not."""
    root = official(source)
    size = (root / CIFARS[source].folder / CIFARS[source].train[0]).stat().st_size
    monkeypatch.setattr(cifar_pickles, "find_form", lambda *_arguments: form)
    form = cifar_pickles.Form("files", (root / CIFARS[source].folder / CIFARS[source].train[0],), official=size > 0)
    with pytest.raises(UserError, match=rf"{CIFARS[source].train[0]} is damaged: its MD5 sum is not [0-9a-f]{{32}};"):
        packed(root, tmp_path / "p", source)


def write(path, **content):
    path.write_bytes(pickle.dumps(content))


IMAGES = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "train").unlink(), r"lacks train: expected the files of cifar-100-python"),
        (lambda f: write(f / "train", data=IMAGES), "train is not a CIFAR batch"),
        (
            lambda f: write(f / "test", data=IMAGES, fine_labels=[0, 1, 2, 9]),
            "test: label 9 lies outside the 4 classes",
        ),
        (lambda f: write(f / "test", data=IMAGES, fine_labels=[0, 1, 2, -1]), "labels must count from 0, found -1"),
        (lambda f: write(f / "test", data=IMAGES, fine_labels=[0, 1, 2, 2]), "class '...' has no test image"),
        (lambda f: write(f / "test", data=IMAGES, fine_labels=[0, 1, 2]), "test holds 4 images and 3 labels"),
        (lambda f: write(f / "test", data=IMAGES[:3], fine_labels=[0, 1, 2, 3]), "test holds 3 images and 4 labels"),
        (lambda f: write(f / "test", data=IMAGES, fine_labels=[0.0, 1.5, 2.0, 3.0]), "no integer"),
        (lambda f: write(f / "test", data=IMAGES, fine_labels=["0", "1", "2", "3"]), "no integer"),
        (lambda f: write(f / "test", data=IMAGES, fine_labels=[[0, 1], [2, 3]]), "4 images and 2 labels"),
        (lambda f: write(f / "test", data=IMAGES, fine_labels=[[0], 1, 2, 3]), "no integer"),
        (lambda f: write(f / "test", data=IMAGES, fine_labels=None), "labels must be a list of integers"),
        (
            lambda f: write(f / "test", data=IMAGES, fine_labels=[10**30, 0, 1, 2]),
            "labels must count from 0, found 1000",
        ),
        (lambda f: write(f / "meta"), "meta is not a CIFAR batch: it must hold fine_label_names"),
        (lambda f: write(f / "meta", fine_label_names=[]), "train: label 3 lies outside the 0 classes"),
        (lambda f: write(f / "meta", fine_label_names=["ant", "ant", "bee", "cat"]), "names class ant twice"),
        (lambda f: write(f / "meta", fine_label_names=["a", "b", " ", "d"]), "class ' ' has no name"),
        (lambda f: write(f / "meta", fine_label_names=[b"\xff", b"b", b"c", b"d"]), "no name that is text in UTF-8"),
        (lambda f: write(f / "meta", fine_label_names=[1, 2, 3, 4]), "fine_label_names is no list of names"),
        (lambda f: (f / "meta").write_bytes(gzip.compress(b"x", mtime=0)), "meta is damaged or holds more"),
    ],
)
def test_cifar_folders_that_cannot_be_used(tmp_path, official, change, message):
    change(official("cifar100") / "cifar-100-python")
    with pytest.raises(UserError, match=message):
        open_source(DatasetSettings(source="cifar100", root=str(tmp_path / "official")))


@pytest.mark.parametrize("data", [np.zeros((4, 3000), np.uint8), np.zeros((4, 3072)), np.zeros(9, np.uint8), None, "x"])
def test_cifar_data_of_another_shape(tmp_path, official, data):
    write(official("cifar100") / "cifar-100-python" / "train", data=data, fine_labels=[0, 1, 2, 3])
    with pytest.raises(UserError, match=r"train holds data .* expected uint8"):
        open_source(DatasetSettings(source="cifar100", root=str(tmp_path / "official")))


def test_an_official_archive_without_a_file(tmp_path, official):
    files = official("cifar100")
    (files / "cifar-100-python" / "test").unlink()
    (tmp_path / "root").mkdir()
    archive_of(files, tmp_path / "root" / "cifar-100-python.tar.gz")
    with pytest.raises(UserError, match=r"python\.tar\.gz lacks cifar-100-python/test"):
        open_source(DatasetSettings(source="cifar100", root=str(tmp_path / "root")))

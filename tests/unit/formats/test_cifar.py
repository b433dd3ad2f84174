"""In which form a folder holds CIFAR-10 or CIFAR-100, and what is said where it is none or several."""

from pathlib import Path

import pytest

from kd.formats.cifar import CIFARS, SHOWN, check_root, find_form
from kd.tools.errors import UserError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def official(cifar, root):
    for name in cifar.files:
        touch(root / cifar.folder / name)


def packed(cifar, root):
    touch(root / cifar.archive)


def class_archives(cifar, root):
    touch(root / "cifar-train-1.tar.gz")
    touch(root / "cifar-test.ZIP")


def class_folders(cifar, root):
    touch(root / "train" / "apple" / "0.png")
    touch(root / "test" / "apple" / "0.png")


FORMS = {
    "files": official,
    "archive": packed,
    "class archives": class_archives,
    "class folders": class_folders,
}


@pytest.mark.parametrize("source", CIFARS)
@pytest.mark.parametrize("kind", FORMS)
def test_each_form_is_found(tmp_path, source, kind):
    FORMS[kind](CIFARS[source], tmp_path)
    touch(tmp_path / "README.md")
    (tmp_path / ".cache").mkdir()
    form = find_form(CIFARS[source], tmp_path)
    assert form.kind == kind
    assert not form.official, "of this size it is not the official one"
    assert len(form.paths) == {"files": len(CIFARS[source].files), "class archives": 2}.get(kind, 1)
    check_root(source, str(tmp_path), False, "datasets.x")


@pytest.mark.parametrize("source", CIFARS)
@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [("files", "class archives"), ("archive", "class folders"), ("class archives", "class folders")],
)
def test_several_forms_are_refused(tmp_path, source, download, first, second):
    for kind in (first, second):
        FORMS[kind](CIFARS[source], tmp_path)
    held = rf"^datasets\.x\.root .* several forms, {SHOWN[first]} \(.*\) and {SHOWN[second]} \(.*\): leave one"
    with pytest.raises(UserError, match=held):
        check_root(source, str(tmp_path), download, "datasets.x")


@pytest.mark.parametrize("source", CIFARS)
def test_what_torchvision_leaves_is_one_form(tmp_path, source):
    """The archive and what was unpacked from it."""
    official(CIFARS[source], tmp_path)
    packed(CIFARS[source], tmp_path)
    assert find_form(CIFARS[source], tmp_path).kind == "files"
    (tmp_path / CIFARS[source].folder / CIFARS[source].meta).unlink()  # unpacking was broken off
    assert find_form(CIFARS[source], tmp_path).kind == "archive"


def test_the_folder_itself_may_be_the_root(tmp_path):
    official(CIFARS["cifar100"], tmp_path)
    assert find_form(CIFARS["cifar100"], tmp_path / "cifar-100-python").kind == "files"


def test_class_folders_may_be_wrapped(tmp_path):
    class_folders(None, tmp_path / "CIFAR" / "images")
    touch(tmp_path / "__MACOSX" / "x.png")
    assert find_form(CIFARS["cifar100"], tmp_path).kind == "class folders"


@pytest.mark.parametrize("source", CIFARS)
@pytest.mark.parametrize("there", ["nothing", "empty", "meta only", "another", "circle"])
def test_nothing_usable(tmp_path, source, there):
    root, cifar = tmp_path / "root", CIFARS[source]
    found = {"nothing": "does not exist", "meta only": rf"lacks {cifar.train[0]}"}.get(there, "holds nothing of it")
    if there != "nothing":
        root.mkdir()
    if there == "meta only":
        touch(root / cifar.folder / cifar.meta)
    if there == "another":
        official(CIFARS["cifar10" if source == "cifar100" else "cifar100"], root)
    if there == "circle":
        (root / "loop").symlink_to(".")
    check_root(source, str(root), True, "datasets.x")
    with pytest.raises(
        UserError, match=rf"^datasets.x.root .*root {found}: expected .*{cifar.archive}.*download: true"
    ):
        check_root(source, str(root), False, "datasets.x")


def test_a_root_that_is_a_file(tmp_path):
    with pytest.raises(UserError, match=r"datasets.x.root .*a.tar is a file: give the folder that holds it"):
        check_root("cifar10", str(touch(tmp_path / "a.tar")), True, "datasets.x")

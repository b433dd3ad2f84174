"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): their official files, and in which form a folder holds the data set.

The form decides how images are read and nothing else: classes are in order of their names, images in order of class
and name, so every form packs to the same arrays.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kd.formats.trees import holds_no_data
from kd.tools.errors import UserError

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


@dataclass(frozen=True)
class Cifar:
    """Names and keys of the official files of one data set."""

    dataset: str
    """The class in torchvision.datasets that knows address and checksums."""
    folder: str
    archive: str
    """What is downloaded; it holds the folder."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    names_key: str
    labels_key: str
    archive_bytes: int
    train_bytes: int
    """Size of the first training file."""

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """File names of each split."""
        return {"train": self.train, "test": self.test}

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that are read."""
        return (*self.train, *self.test, self.meta)


CIFARS = {
    "cifar10": Cifar(
        dataset="CIFAR10",
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        names_key="label_names",
        labels_key="labels",
        archive_bytes=170498071,
        train_bytes=31035704,
    ),
    "cifar100": Cifar(
        dataset="CIFAR100",
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        train=("train",),
        test=("test",),
        meta="meta",
        names_key="fine_label_names",
        labels_key="fine_labels",
        archive_bytes=169001437,
        train_bytes=155249918,
    ),
}


@dataclass(frozen=True)
class Form:
    """What of a data set a folder holds."""

    kind: Literal["files", "archive", "class archives", "class folders"]
    """The official files, or the official archive of them, or class folders in archives or as they are."""
    paths: tuple[Path, ...]
    """The files to read; for class folders the folder that holds them."""
    official: bool
    """Whether size speaks for what is downloaded, so that its checksums must hold."""

    def example(self, root: Path) -> str:
        """Return the name of one thing of it that lies in the root."""
        return "train" if self.kind == "class folders" else str(self.paths[0].relative_to(root))


SHOWN = {
    "files": "official files",
    "archive": "the official archive",
    "class archives": "archives of classes",
    "class folders": "folders of classes",
}
"""Forms in a sentence."""


def find_form(cifar: Cifar, root: Path) -> Form | None:
    """Return the one form in which a folder holds a data set; None where it holds nothing that can be used.

    Only names and sizes are looked at. Errors: UserError for a root that is a file or cannot be looked into, and for
    several forms at once.
    """
    try:
        if not root.is_dir():
            if root.exists():
                raise UserError(f"root {root} is a file: give the folder that holds it")
            return None
        forms = [form for form in (_official(cifar, root), _archives(cifar, root), _folders(root)) if form is not None]
    except OSError as error:
        raise UserError(f"root {root} cannot be looked into: {error.strerror}") from error
    if len(forms) > 1:
        held = " and ".join(f"{SHOWN[form.kind]} ({form.example(root)})" for form in forms)
        raise UserError(f"root {root} holds a data set in several forms, {held}: leave one of them there")
    return forms[0] if forms else None


def check_root(source: str, root: str, download: bool, where: str) -> None:
    """Raise UserError unless a folder holds a data set in one form, or nothing that keeps it from being fetched."""
    try:
        if find_form(CIFARS[source], Path(root)) is None and not download:
            raise nothing_usable(CIFARS[source], Path(root))
    except UserError as error:
        raise UserError(f"{where}.{error}") from error


def nothing_usable(cifar: Cifar, root: Path) -> UserError:
    """Return the error that says what a folder should hold."""
    if not root.is_dir():
        found = "does not exist"
    else:
        base = root / cifar.folder if (root / cifar.folder).is_dir() else root
        missing = [name for name in cifar.files if not (base / name).is_file()]
        found = f"lacks {missing[0]}" if len(missing) < len(cifar.files) else "holds nothing of it"
    return UserError(
        f"root {root} {found}: expected the files of {cifar.folder}, {cifar.archive}, or archives or folders of classes"
        " (train/<class>, test/<class>); download: true fetches it"
    )


def _official(cifar: Cifar, root: Path) -> Form | None:
    for base in (root / cifar.folder, root):
        paths = tuple(base / name for name in cifar.files)
        if all(path.is_file() for path in paths):
            return Form("files", paths, paths[0].stat().st_size == cifar.train_bytes)
    archive = root / cifar.archive
    if archive.is_file():
        return Form("archive", (archive,), archive.stat().st_size == cifar.archive_bytes)
    return None


def _archives(cifar: Cifar, root: Path) -> Form | None:
    paths = tuple(
        path
        for path in sorted(root.iterdir())
        if path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.name != cifar.archive and path.name[0] != "."
    )
    return Form("class archives", paths, False) if paths else None


def _folders(root: Path) -> Form | None:
    """Find a folder train, below folders that hold one folder each."""
    while True:
        folders = [path for path in root.iterdir() if path.is_dir() and not holds_no_data(path.name)]
        if any(path.name.lower() == "train" for path in folders):
            return Form("class folders", (root,), False)
        if len(folders) != 1:
            return None
        root = folders[0]

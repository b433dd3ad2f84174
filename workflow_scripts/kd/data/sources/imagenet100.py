"""A list of classes out of an ImageNet tree: `train/<class>/` and `val/<class>/`."""

from pathlib import Path

from kd.data.folder_tree import find_layout, list_folder, tree_source
from kd.data.source import Source
from kd.formats.class_lists import listed_classes
from kd.schema.config import DatasetSettings
from kd.tools.errors import UserError, unknown


def open_source(settings: DatasetSettings) -> Source:
    """Open the listed classes of an ImageNet tree; `val` is the test split, labels follow the sorted class folders."""
    assert settings.root is not None
    assert settings.class_list is not None
    root = Path(settings.root)
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise UserError(f"root {root} has no folder {split}: expected an ImageNet tree with train and val folders")
    wanted = _read_class_list(Path(settings.class_list))
    for split in ("train", "val"):
        there = [entry.name for entry in (root / split).iterdir() if entry.is_dir()]
        for name in wanted:
            if name not in there:
                raise unknown(f"class in {settings.class_list}, absent from {root / split},", name, there)
    # Only the listed folders are scanned: the tree may hold ten times as many.
    listing = list_folder(root, [f"{split}/{name}" for split in ("train", "val") for name in wanted])
    return tree_source(listing, find_layout(listing, None, 0))


def _read_class_list(path: Path) -> list[str]:
    names = listed_classes(path)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"class_list {path} names class {twice[0]} twice")
    if len(names) < 2:
        raise UserError(f"class_list {path} names {len(names)} classes, at least 2 are needed")
    return names

"""Images in class folders, in a directory or in archives."""

from pathlib import Path

from kd.data.archives import list_archives
from kd.data.folder_tree import find_layout, list_folder, tree_source
from kd.data.source import Source
from kd.schema.config import DatasetSettings
from kd.tools.errors import UserError


def open_source(settings: DatasetSettings) -> Source:
    """Open a tree of class folders: `train` with `val` or `test` (or both), or one root divided by `split_ratios`."""
    if settings.root is not None:
        root = Path(settings.root)
        if not root.is_dir():
            hint = "is a file (list archives under archives)" if root.is_file() else "does not exist"
            raise UserError(f"root {root} {hint}: expected a folder of class folders")
        listing = list_folder(root)
    else:
        listing = list_archives([Path(archive) for archive in settings.archives])
    return tree_source(listing, find_layout(listing, settings.split_ratios, settings.split_seed))

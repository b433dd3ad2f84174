"""Which files of a tree are pictures, which folders are no data, and a walk that links do not lead astray.

Held here because the workflow looks at the same files when it starts (kd.study.contents) as packing reads later.
"""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_SUFFIXES = """
apng avif avifs blp bmp bw cur dcx dds dib fit fits flc fli ftc ftu gbr gif icb icns ico iim im j2c j2k jfif jp2 jpc jpe
jpeg jpf jpg jpx mpo msp pbm pcd pcx pfm pgm png pnm ppm psd pxr qoi ras rgb rgba sgi tga tif tiff vda vst webp xbm xpm
"""
PICTURE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""What Pillow registers, without what it only names or leaves to other programs: films, PostScript, HDF5, GRIB, WMF."""

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folders that hold a split, in lower case, and what they mean."""

NO_DATA = frozenset(
    {
        *("__macosx", "__pycache__", "lost+found", "found.000", "recycler", "recycled", "#recycle", "#snapshot"),
        *("~snapshot", "system volume information", "network trash folder", "temporary items", "_gsdata_"),
        "thevolumesettingsfolder",
    }
)
"""Folders that systems, file servers and tools leave behind, in lower case; others begin with . or @ or $."""

HIDDEN = "hidden files"
NOWHERE = "links that lead nowhere"
CIRCLE = "links in a circle"
NO_FILE = "pipes, sockets and devices"
NO_SUFFIX = "no suffix"


def suffix_of(name: str) -> str:
    """Return a file's suffix in lower case, '' for none."""
    return os.path.splitext(name)[1].lower()


def is_picture(name: str) -> bool:
    """Tell by its name whether a file is a picture that is taken."""
    return not name.startswith(".") and suffix_of(name) in PICTURE_SUFFIXES


def holds_no_data(folder: str) -> bool:
    """Tell by its name whether a folder is one of those that tools leave behind: .ipynb_checkpoints, @eaDir, ..."""
    return folder.startswith((".", "@", "$")) or folder.lower() in NO_DATA


def kind_left_out(file: str) -> str:
    """Return what a file that is no picture counts as: its suffix, or why it has none that counts."""
    return HIDDEN if file.startswith(".") else suffix_of(file) or NO_SUFFIX


@dataclass
class Visit:
    """What one folder of a tree holds, without what is in its subfolders."""

    inside: str
    """Path below the root, '' for the root itself."""
    pictures: list[os.DirEntry] = field(default_factory=list)
    """Also links that lead nowhere, if their names are those of pictures: whoever reads them tells."""
    folders: list[str] = field(default_factory=list)
    """Names of the subfolders that may hold data, sorted; of links that lead nowhere too, if they have no suffix."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many files and folders of each kind are passed over here."""
    again: str | None = None
    """Where the walk has met the very same folder before, through a link; then nothing else is told of it."""
    error: OSError | None = None
    """Why the folder cannot be listed."""


@dataclass(frozen=True)
class _Stop:
    inside: str
    path: str
    real: str
    above: tuple[str, ...]
    """Real paths of the folders whose links led here."""


def walk(root: str | os.PathLike, below: Iterable[str] = ("",)) -> Iterator[Visit]:
    """Visit the folders below a root, or below some of its folders, in order of their names; what links lead to last.

    A link to a folder that it lies in is passed over. No folder is listed twice, and nothing raises: what cannot be
    listed is told by its visit.
    """
    top = os.path.realpath(root)
    waiting, linked = [], deque[_Stop]()
    for part in below:
        path = os.path.join(root, part)
        waiting.append(_Stop(part, path, os.path.realpath(path), (top,)))
    waiting.reverse()
    seen: dict[str, str] = {}
    while waiting or linked:
        stop = waiting.pop() if waiting else linked.popleft()
        if stop.real in seen:
            yield Visit(stop.inside, again=seen[stop.real])
            continue
        seen[stop.real] = stop.inside
        visit, following = _visit(stop)
        linked.extend(further for further in following if len(further.above) > len(stop.above))
        waiting.extend(further for further in reversed(following) if len(further.above) == len(stop.above))
        yield visit


def _visit(stop: _Stop) -> tuple[Visit, list[_Stop]]:
    visit = Visit(stop.inside)
    following = []
    try:
        with os.scandir(stop.path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        visit.error = error
        return visit, []
    for entry in listed:
        kind = _kind(entry)
        if kind == "folder":
            following += _enter(stop, entry, visit)
        elif kind == NO_FILE:
            visit.left_out[NO_FILE] += 1
        elif is_picture(entry.name):
            visit.pictures.append(entry)
        elif kind == NOWHERE and not suffix_of(entry.name) and not holds_no_data(entry.name):
            visit.folders.append(entry.name)
            visit.left_out[NOWHERE] += 1
        else:
            visit.left_out[kind_left_out(entry.name)] += 1
    return visit, following


def _enter(stop: _Stop, entry: os.DirEntry, visit: Visit) -> list[_Stop]:
    """Note a subfolder and return it as the place to go on, unless it holds no data or leads back."""
    if holds_no_data(entry.name):
        visit.left_out[f"{entry.name}/"] += 1
        return []
    real, above = f"{stop.real.rstrip('/')}/{entry.name}", stop.above
    if entry.is_symlink():
        real, above = os.path.realpath(entry.path), (*stop.above, stop.real)
        if any(f"{lower}/".startswith(f"{real.rstrip('/')}/") for lower in above):
            visit.left_out[CIRCLE] += 1
            return []
    visit.folders.append(entry.name)
    return [_Stop(f"{stop.inside}/{entry.name}".lstrip("/"), entry.path, real, above)]


def _kind(entry: os.DirEntry) -> str:
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        return NOWHERE if entry.is_symlink() and not os.path.exists(entry.path) else NO_FILE
    except OSError:  # a link to itself, or into a folder that may not be entered
        return NOWHERE

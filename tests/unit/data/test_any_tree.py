"""Trees drawn at random, as users have them: each gives the counts that a user sees, or one sentence with the cause."""

import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd.data.packing import pack
from kd.schema.config import DatasetSettings, SplitRatios
from kd.study.contents import contents_of
from kd.tools.errors import UserError

SUFFIXES = ("png", "jpg", "jpeg", "jfif", "jpe", "JPG", "bmp", "tga", "webp", "gif", "tif", "jp2", "ppm", "qoi", "PNG")
MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "I;16")
NO_DATA = (
    ".ipynb_checkpoints",
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
    ".git",
)
NO_PICTURES = ("Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt", "nosuffix", "x.heic", "y.npy", "._0.png")
CLASSES = ("a", "b", "C", "10", "2", "d e", "\u00e9", "train2", "{x}")


@dataclass
class Tree:
    """A tree under way: what a user would count in it, and what is wrong with it."""

    root: Path
    draw: random.Random
    counts: Counter = field(default_factory=Counter)
    broken: int = 0
    wrong: str = ""

    def picture(self, path: Path, mode: str = "RGB") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(self.draw.randrange(2**32)).integers(0, 256, (9, 9, 3))
        deep = mode == "I;16"
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257) if deep else Image.fromarray(np.uint8(values))
        (image if deep else image.convert(mode)).save(path)

    def taken(self, folder: tuple[str, str], path: Path, mode: str = "RGB") -> None:
        self.picture(path, mode)
        self.counts[folder] += 1


def tool_folder(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    tree.picture(place / tree.draw.choice(NO_DATA) / "q.png")


def other_file(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    (place / tree.draw.choice(NO_PICTURES)).write_bytes(b"x")


def circle(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    (inside / "circle").symlink_to(tree.draw.choice([".", "..", "/", str(tree.root.resolve())]))


def no_file(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    os.mkfifo(inside / "pipe.png")
    (inside / "device.png").symlink_to("/dev/zero")


def link_elsewhere(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    outside = tree.root.parent / f"outside{len(tree.counts)}-{tree.draw.random()}"
    tree.taken(folder, outside / "1.png")
    (inside / "elsewhere").symlink_to(outside.resolve())


def strange_names(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    tree.taken(folder, inside / "two\nlines {0}.png")
    tree.taken(folder, Path(os.fsdecode(os.path.join(os.fsencode(inside), b"\xff.png"))))


def deeper(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    tree.taken(folder, inside / "deep" / "er" / "x.png")
    (inside / "empty").mkdir()


def linked_picture(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    (inside / "link.png").symlink_to(next(inside.glob("0.*")).name)
    tree.counts[folder] += 1


def broken(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    (inside / "zero.png").touch()
    (inside / "nowhere.png").symlink_to("nowhere")
    (inside / "self.png").symlink_to("self.png")
    tree.broken += 3


def same_twice(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    other = next(name for split, name in tree.counts if split == folder[0] and name != folder[1])
    (inside / "other").symlink_to(Path("..") / other)
    tree.wrong = "would count twice"


def dead_class(tree: Tree, folder: tuple[str, str], inside: Path, place: Path) -> None:
    (inside.parent / "zz_dead").symlink_to("/nowhere")
    tree.wrong = "zz_dead holds no images"


HARMLESS = (tool_folder, other_file, circle, no_file, link_elsewhere, strange_names, deeper, linked_picture)
HARMFUL = (broken, same_twice, dead_class)


def grow(seed: int, root: Path) -> tuple[Tree, bool]:
    tree = Tree(root, random.Random(seed))
    divided = tree.draw.random() < 0.8
    splits = (tree.draw.choice(("train", "Train")), tree.draw.choice(("test", "val", "TEST"))) if divided else ("",)
    folders = [(split, name) for split in splits for name in tree.draw.sample(CLASSES, 3)[:3]]
    names = [name for _, name in folders[:3]]
    folders = [(split, name) for split in splits for name in names]
    for folder in folders:
        for k in range(tree.draw.randint(4, 6)):
            mode = tree.draw.choice(MODES)
            suffix = tree.draw.choice(SUFFIXES) if mode == "RGB" else "png"
            tree.taken(folder, root.joinpath(*folder) / f"{k}.{suffix}", mode)
    for change in tree.draw.sample(HARMLESS, 4) + ([tree.draw.choice(HARMFUL)] if tree.draw.random() < 0.4 else []):
        folder = tree.draw.choice(folders)
        inside = root.joinpath(*folder)
        change(tree, folder, inside, tree.draw.choice((root, inside.parent, inside)))
    return tree, divided


@pytest.mark.parametrize("seed", range(24))
def test_any_tree_gives_the_right_counts_or_one_sentence(tmp_path, seed):
    tree, divided = grow(seed, tmp_path / "tree")
    ratios = None if divided else SplitRatios(train=0.5, test=0.5)
    settings = DatasetSettings(source="imagefolder", root=str(tree.root), image_size=8, split_ratios=ratios)
    about = contents_of(settings).train_images
    if tree.wrong or tree.broken:
        with pytest.raises(UserError) as caught:
            pack(settings, tmp_path / "packed", 1, False)
        assert (tree.wrong or f"{tree.broken} images cannot be used") in str(caught.value)
        assert str(caught.value).isprintable()
        return
    pack(settings, tmp_path / "packed", 1, False)
    counts = json.loads((tmp_path / "packed" / "manifest.json").read_text(encoding="utf-8"))["counts"]
    found, expected = Counter(), Counter()
    for split, count in counts.items():
        found.update({(split if divided else "", name): images for name, images in count["per_class"].items()})
    for (split, name), images in tree.counts.items():
        expected[("train" if split.lower() == "train" else "test" if split else "", name)] += images
    assert found == expected
    if divided:
        assert about == counts["train"]["images"]

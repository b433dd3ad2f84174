import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from data_builders import write_cifar, write_image, write_imagenet32, write_tree
from PIL import Image

from kd.data import decoding, packing
from kd.data.packed import Packed
from kd.data.packing import pack
from kd.data.source import open_source
from kd.schema.config import DatasetSettings, SplitRatios
from kd.tools.errors import UserError


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "tree")


def packed(tmp_path, workers=1, **settings) -> Packed:
    pack(DatasetSettings(**settings), tmp_path / "packed", workers, progress=False)
    return Packed(tmp_path / "packed")


def test_digits_are_divided_stratified(tmp_path):
    data = packed(tmp_path, source="digits")
    assert data.manifest["shape"] == [3, 8, 8]
    assert data.num_classes == 10
    assert len(data.labels["train"]) + len(data.labels["test"]) == 1797
    shares = np.bincount(data.labels["test"]) / np.bincount(np.concatenate([*data.labels.values()]))
    np.testing.assert_allclose(shares, 0.2, atol=0.004)
    images = data.images["train"]
    assert images.max() == 255
    assert (images[:, 0] == images[:, 2]).all()


def test_digits_split_follows_its_seed(tmp_path):
    first, same, other = (packed(tmp_path, source="digits", split_seed=seed) for seed in (0, 0, 1))
    assert first.manifest["digests"] == same.manifest["digests"] != other.manifest["digests"]


@pytest.mark.parametrize("image_size", [None, 5])
def test_packing_twice_gives_the_same_bytes(tmp_path, tree, image_size):
    """Whatever the number of processes; nothing of time, place or machine is written."""
    for folder, workers in (("one", 1), ("two", 2)):
        shutil.copytree(tree, tmp_path / folder / "images")
        (tmp_path / folder / "images" / "train" / "ant" / "notes.txt").touch()
        settings = DatasetSettings(source="imagefolder", root=str(tmp_path / folder / "images"), image_size=image_size)
        pack(settings, tmp_path / folder / "packed", workers, progress=False)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / folder / "packed").iterdir()} for folder in ("one", "two")
    )
    assert first == second
    assert len(first) == 5
    assert json.loads(first["manifest.json"])["passed_over"] == {".txt": 1}


@pytest.mark.parametrize("size", [None, 16])
def test_mean_and_std_are_those_of_the_training_images(tmp_path, size):
    data = packed(tmp_path, source="digits", image_size=size)
    scaled = data.images["train"] / 255
    np.testing.assert_allclose(data.mean, scaled.mean(axis=(0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(data.std, scaled.std(axis=(0, 2, 3)), atol=1e-6)
    assert data.image_size == (size or 8)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_cifar_pickles_of_every_protocol(tmp_path, protocol):
    write_cifar(tmp_path / "root", protocol)
    data = packed(tmp_path, source="cifar100", root=str(tmp_path / "root"))
    assert data.classes == ["ant", "bee", "cat", "dog"]
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 256, (20, 3072), dtype=np.uint8).reshape(20, 3, 32, 32)
    names = rng.permutation(20)
    np.testing.assert_array_equal(data.images["train"], expected[np.lexsort((names, np.arange(20) % 4))])
    np.testing.assert_array_equal(data.labels["train"], np.arange(20) // 5)


def test_cifar_root_may_be_the_official_folder_itself(tmp_path):
    write_cifar(tmp_path / "root")
    data = packed(tmp_path, source="cifar100", root=str(tmp_path / "root" / "cifar-100-python"))
    assert len(data.labels["test"]) == 20


def test_imagenet32_counts_labels_from_one(tmp_path):
    write_imagenet32(tmp_path / "root")
    data = packed(tmp_path, source="imagenet32", root=str(tmp_path / "root"))
    assert data.classes == ["1", "2", "3"]
    assert data.images["train"].shape == (60, 3, 32, 32)
    assert set(data.labels["train"]) == {0, 1, 2}
    first = np.random.default_rng(1).integers(0, 256, (6, 3072), dtype=np.uint8)
    np.testing.assert_array_equal(data.images["train"][:6].reshape(6, -1), first)


def test_imagenet32_takes_names_from_the_class_map(tmp_path):
    root = write_imagenet32(tmp_path / "root")
    (root / "map_clsloc.txt").write_text("n01 2 kit_fox\nn02 1 setter\nn03 3 badger\n", encoding="utf-8")
    assert packed(tmp_path, source="imagenet32", root=str(root)).classes == ["n02", "n01", "n03"]


def test_imagenet100_takes_the_listed_classes(tmp_path):
    root = write_tree(tmp_path / "root", ("train", "val"), ("n1", "n2", "n3"))
    (tmp_path / "list.txt").write_text("n3 badger\n# a comment\nn1\n", encoding="utf-8")
    data = packed(tmp_path, source="imagenet100", root=str(root), class_list=str(tmp_path / "list.txt"))
    assert data.classes == ["n1", "n3"]
    assert data.splits == ("train", "test")
    assert len(data.labels["train"]) == 8


@pytest.mark.parametrize(
    ("size", "image_size", "box"),
    [((40, 20), 10, (5, 0, 15, 10)), ((20, 40), 10, (0, 5, 10, 15)), ((8, 8), 16, (0, 0, 16, 16))],
)
def test_resize_is_pillows_bilinear_then_a_centre_crop(size, image_size, box):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    scale = image_size / min(size)
    whole = image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BILINEAR)
    expected = np.asarray(whole.crop(box)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decoding.fit(image, image_size, "image"), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_every_colour_mode_becomes_three_channels(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (4, 4), (200, 200, 200)).convert(mode).save(path)
    assert decoding.fit(decoding.decode(str(path), "image"), None, "image").shape == (3, 4, 4)


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_image_is_named_and_nothing_is_left(tmp_path, tree, workers):
    (tree / "train" / "bee" / "1.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"bee/1\.png is not a readable image"):
        packed(tmp_path, workers, source="imagefolder", root=str(tree))
    assert os.listdir(tmp_path) == ["tree"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("image_size", [None, 8])
def test_all_images_that_cannot_be_used_are_told_at_once(tmp_path, workers, image_size):
    tree = write_tree(tmp_path / "tree", count=150)
    (tree / "train" / "ant" / "0.png").write_bytes(b"")
    (tree / "train" / "cat" / "7.png").write_bytes(b"no picture")
    (tree / "test" / "bee" / "1.png").unlink()
    (tree / "test" / "bee" / "1.png").symlink_to("nowhere")
    with pytest.raises(UserError) as caught:
        packed(tmp_path, workers, source="imagefolder", root=str(tree), image_size=image_size)
    told = str(caught.value).replace(str(tree), "")
    assert told == (
        "3 images cannot be used: /train/ant/0.png is not a readable image: it is empty; "
        "/train/cat/7.png is not a readable image: cannot identify its format; "
        "/test/bee/1.png is not a readable image: a link that leads nowhere"
    )


def test_of_many_images_that_cannot_be_used_twenty_are_named(tmp_path, tree, monkeypatch):
    write_tree(tree, count=20)
    for path in tree.glob("train/[bc]*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^40 images cannot be used: .*bee/0\.png.*; and more$") as caught:
        packed(tmp_path, source="imagefolder", root=str(tree))
    assert str(caught.value).count("it is empty") == 20
    monkeypatch.setattr(packing, "MOST_BROKEN", 30)
    with pytest.raises(UserError, match=r"^at least 30 images cannot be used: .*; and more$"):
        packed(tmp_path, source="imagefolder", root=str(tree))


def test_a_first_block_without_a_readable_image_ends_the_pass(tmp_path, tree):
    for path in tree.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^12 images cannot be used: .*ant/0\.png is not a readable image"):
        packed(tmp_path, source="imagefolder", root=str(tree))


def recolour(tree, colour_of, kind=np.uint8):
    for k, path in enumerate(sorted(tree.rglob("*.png"))):
        Image.fromarray(np.broadcast_to(np.asarray(colour_of(k), kind), (8, 8, *np.shape(colour_of(k)))).copy()).save(
            path
        )


def test_pictures_of_16_bits_keep_their_shades(tmp_path, tree):
    for k, path in enumerate(sorted(tree.rglob("*.png"))):
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000 + k).save(path)
    data = packed(tmp_path, source="imagefolder", root=str(tree))
    assert data.images["train"][0, 0].ravel().tolist() == [round((k * 1000 + 12) / 257) for k in range(64)]
    assert data.manifest["remarks"] == {"with 16 bits a channel, scaled to 8": 24}


@pytest.mark.parametrize(
    ("colour_of", "kind", "message"),
    [
        (lambda k: (9, 9, 9), np.uint8, "every pixel of the training images is 9 of 255: there is nothing to learn"),
        (lambda k: 65535, np.uint16, "every pixel of the training images is 255 of 255"),
        (lambda k: (9, 10, 11), np.uint8, "all 12 train images are the same picture"),
        (lambda k: (k, 0, 0) if k >= 12 else (5, 6, 7), np.uint8, "all 12 test images are the same picture"),
        (lambda k: 100 * k, np.uint16, "use only the lowest 9.5/255 of that range"),
        (lambda k: 4095 * (k % 2), np.uint16, "use only the lowest 16.5/255 of that range"),
    ],
    ids=["black", "white16", "same", "same-test", "dark16", "twelve-bits"],
)
def test_data_of_which_nothing_can_be_learnt_are_refused(tmp_path, tree, colour_of, kind, message):
    recolour(tree, colour_of, kind)
    with pytest.raises(UserError, match=message):
        packed(tmp_path, source="imagefolder", root=str(tree))


def test_pictures_of_one_colour_and_one_channel_may_be_told_apart(tmp_path, tree):
    """The augmenter divides by no less than 1e-3 where a channel is constant."""
    recolour(tree, lambda k: (k, 0, 0))
    data = packed(tmp_path, source="imagefolder", root=str(tree))
    assert data.std[1:] == (0, 0)
    assert data.manifest["remarks"] == {"of one colour": 24}


def test_a_line_is_no_picture(tmp_path, tree):
    write_image(tree / "train" / "bee" / "2.png", 3, (1, 101))
    with pytest.raises(UserError, match=r"bee/2\.png is 1x101 pixels, a line and no picture"):
        packed(tmp_path, source="imagefolder", root=str(tree), image_size=64)


def test_the_log_says_what_was_packed_and_what_was_passed_over(tmp_path, tree, caplog):
    for split in ("train", "test"):
        for number, name in enumerate(("ant", "bee", "cat")):
            (tree / split / name).rename(tree / split / str(number * 9 + 2))
    (tree / "train" / "2" / ".ipynb_checkpoints").mkdir()
    (tree / "train" / "notes.txt").touch()
    with Image.open(tree / "train" / "2" / "0.png") as image:
        image.save(tree / "train" / "2" / "0.gif", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    with caplog.at_level("INFO"):
        packed(tmp_path, source="imagefolder", root=str(tree))
    assert [record.getMessage().partition(" in 0")[0] for record in caplog.records] == [
        "packed 13 train, 12 test images of 3 classes (labels in this order: 11, 2, 20)",
        "passed over, as no pictures of a class: 1 .ipynb_checkpoints/, 1 .txt",
        "1 images with several frames, of which the first is taken",
    ]


def test_image_cut_short_is_named(tmp_path, tree):
    path = tree / "test" / "cat" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"cat/2\.png is not a readable image"):
        packed(tmp_path, source="imagefolder", root=str(tree))


@pytest.mark.parametrize(
    ("size", "message"),
    [((9, 9), r"2\.png is 9x9 pixels and the first image is 8x8: set image_size"), ((9, 8), r"9x8 pixels, not square")],
)
def test_several_sizes_need_image_size(tmp_path, tree, size, message):
    write_image(tree / "train" / "bee" / "2.png", 3, size)
    with pytest.raises(UserError, match=message):
        packed(tmp_path, source="imagefolder", root=str(tree))
    assert packed(tmp_path, source="imagefolder", root=str(tree), image_size=6).image_size == 6


def test_full_disk_is_one_sentence_and_the_old_data_stay(tmp_path, tree, monkeypatch):
    before = packed(tmp_path, source="imagefolder", root=str(tree)).manifest

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"cannot pack imagefolder into .*No space left"):
        packed(tmp_path, source="imagefolder", root=str(tree))
    assert Packed(tmp_path / "packed").manifest == before
    assert sorted(os.listdir(tmp_path)) == ["packed", "tree"]


def test_packing_again_removes_a_split_that_is_gone(tmp_path, tree):
    packed(tmp_path, source="imagefolder", root=str(write_tree(tmp_path / "three", ("train", "val", "test"))))
    assert packed(tmp_path, source="imagefolder", root=str(tree)).splits == ("train", "test")
    assert not (tmp_path / "packed" / "val_images.npy").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "test_images.npy").unlink(), "test_images.npy is missing"),
        (lambda folder: os.truncate(folder / "train_images.npy", 500), r"train_images\.npy is damaged"),
        (lambda folder: np.save(folder / "train_labels.npy", np.zeros(3, np.int64)), r"\(3,\), its manifest says"),
        (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json does not exist"),
        (lambda folder: (folder / "manifest.json").write_text("{}", encoding="utf-8"), "lacks its checksum"),
    ],
)
def test_packed_folder_is_checked_when_opened(tmp_path, tree, damage, message):
    packed(tmp_path, source="imagefolder", root=str(tree))
    damage(tmp_path / "packed")
    with pytest.raises(UserError, match=message):
        Packed(tmp_path / "packed")


def test_spawned_processes_do_not_run_the_calling_script(tmp_path, tree):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        from kd.data.packing import pack
        from kd.schema.config import DatasetSettings
        pack(DatasetSettings(source="imagefolder", root={str(tree)!r}), {str(tmp_path / "packed")!r}, 2, False)
        print("ran")
        """),
        encoding="utf-8",
    )
    assert run_python(str(script)).stdout == "ran\n"


def run_python(*arguments):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow_scripts")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=True,
        timeout=300,
    )


REPOSITORY = Path(__file__).resolve().parents[3]

PACK = """
import json, resource, sys
from kd.data.packing import pack
from kd.schema.config import DatasetSettings
few, many, folder = sys.argv[1:]
for archive in (few, many):
    pack(DatasetSettings(source="imagefolder", archives=[archive], image_size=64), folder, 2, False)
    print(json.dumps([resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]))
"""
# Linux carries the peak of a process over to what it starts, and this one holds torch: step through a small one.
STEP = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"


def test_memory_stays_far_below_the_size_of_the_packed_data(tmp_path):
    """30,000 tiny images become 369 MB of packed pixels; three processes together hold hardly more than for 1,000.

    What libraries, threads and pages take on a machine is in both peaks, so only their difference is judged.
    """
    few, many = (write_flat_tar(tmp_path / f"{count}.tar", count) for count in (1_000, 30_000))
    told = run_python("-c", STEP, "-c", PACK, str(few), str(many), str(tmp_path / "packed")).stdout
    before, after = (np.array(json.loads(line)) * 1024 for line in told.splitlines())
    size = (tmp_path / "packed" / "train_images.npy").stat().st_size
    assert size > 368e6
    assert (after - before) @ [1, 2] < size / 8  # bytes: the main process and two workers


def write_flat_tar(path, count):
    pictures = []
    for red in (10, 11):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (red, 20, 30)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    with tarfile.open(path, "w") as archive:
        for k in range(count + 20):
            split = "train" if k < count else "test"
            member = tarfile.TarInfo(f"{split}/class{k % 10}/{k:06d}.png")
            member.size = len(pictures[k % 2])
            archive.addfile(member, io.BytesIO(pictures[k % 2]))
    return path


def test_cifar100_test_archive_packs_as_one_undivided_root(shared, tmp_path):
    """Its lone top folder 'test' is passed over, and its class 'train' is a class."""
    data = packed(
        tmp_path,
        2,
        source="imagefolder",
        archives=[str(shared / "data" / "cifar100-test.tar.gz")],
        split_ratios=SplitRatios(train=0.7, val=0.1, test=0.2),
    )
    assert data.num_classes == 100
    assert "train" in data.classes
    assert {split: len(labels) for split, labels in data.labels.items()} == {"train": 7000, "test": 2000, "val": 1000}
    assert set(np.bincount(data.labels["val"])) == {10}


def test_every_source_opens_by_its_name():
    for name in get_args(DatasetSettings.model_fields["source"].annotation):
        settings = DatasetSettings.model_construct(
            source=name, root="/nowhere", archives=[], download=False, class_list="x", split_ratios=None, split_seed=0
        )
        if name == "digits":
            assert len(open_source(settings).classes) == 10
        else:
            with pytest.raises(UserError, match="root /nowhere"):
                open_source(settings)

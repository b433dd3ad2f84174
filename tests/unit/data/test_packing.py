import errno
import io
import json
import os
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

from kd.data import decoding
from kd.data.packed import Packed
from kd.data.packing import pack
from kd.data.source import open_source
from kd.spec.config import DatasetSettings, SplitRatios
from kd.spec.errors import UserError


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


def test_packed_twice_is_the_same_bytes(tmp_path, tree):
    found = []
    for workers in (1, 2):
        folder = packed(tmp_path, workers, source="imagefolder", root=str(tree)).folder
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]


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
        from kd.spec.config import DatasetSettings
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
from kd.spec.config import DatasetSettings
pack(DatasetSettings(source="imagefolder", archives=[sys.argv[1]], image_size=64), sys.argv[2], 2, False)
peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps(peaks))
"""
# Linux carries the peak of a process over to what it starts, and this one holds torch: step through a small one.
STEP = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"


def test_memory_stays_far_below_the_size_of_the_packed_data(tmp_path):
    """30,000 tiny images become 369 MB of packed pixels; three processes together hold far less than that."""
    archive = write_flat_tar(tmp_path / "many.tar", 30_000)
    peaks = json.loads(run_python("-c", STEP, "-c", PACK, str(archive), str(tmp_path / "packed")).stdout)
    size = (tmp_path / "packed" / "train_images.npy").stat().st_size
    assert size > 368e6
    assert peaks[0] + 2 * peaks[1] < 240  # MB: the main process and two workers


def write_flat_tar(path, count):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(buffer, "PNG")
    data = buffer.getvalue()
    with tarfile.open(path, "w") as archive:
        for k in range(count + 20):
            split = "train" if k < count else "test"
            member = tarfile.TarInfo(f"{split}/class{k % 10}/{k:06d}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
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

"""Packed arrays whose bits flipped are refused when they are read, whatever part of the folder it is."""

import random
import re
import shutil

import numpy as np
import pytest
from flips import read_flipped

from kd.data.packed import Packed
from kd.data.packing import pack
from kd.schema.config import DatasetSettings
from kd.tools.errors import UserError

FILES = ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "manifest.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "data"
    pack(DatasetSettings(source="digits", image_size=8), folder, workers=1, progress=False)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def read(folder):
    packed = Packed(folder)
    return packed.manifest, {split: (packed.images[split], packed.labels[split]) for split in packed.splits}


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_are_noticed(folder, name):
    path = folder / name
    content, draws = path.read_bytes(), random.Random(name)
    for position in [3, *draws.sample(range(8 * len(content)), 25)]:
        _, refusal = read_flipped(path, content, position, lambda: read(folder))
        assert re.search(f"{name} .*(delete|pack)", refusal)


def test_a_job_checks_only_what_it_reads(folder):
    path = folder / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    packed = Packed(folder)
    assert packed.images["test"].shape[1:] == (3, 8, 8)
    assert list(packed.images) == ["train", "test"]
    with pytest.raises(UserError, match=r"train_images\.npy is damaged, its content is not what was packed: delete"):
        _ = packed.images["train"]


def test_an_array_is_checked_once(folder, monkeypatch):
    packed, checked = Packed(folder), []
    monkeypatch.setattr(packed, "check", lambda *what: checked.append(what))
    first, again = packed.images["train"], packed.images["train"]
    assert first is again
    assert checked == [("train", "images")]


def test_swapped_files_are_noticed(folder):
    images = np.load(folder / "test_images.npy")
    np.save(folder / "test_images.npy", images[::-1])
    with pytest.raises(UserError, match=r"test_images\.npy is damaged"):
        read(folder)

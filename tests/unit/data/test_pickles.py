"""The restricted unpickler and the sources that use it."""

import collections
import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest
from data_builders import write_cifar, write_imagenet32

from kd.data.packing import pack
from kd.data.source import open_source
from kd.data.unpickle import load_pickle
from kd.schema.config import DatasetSettings
from kd.tools.errors import UserError


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write(path, value, protocol=2):
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4)),
        np.arange(4, dtype=np.float32)[::2],
        np.array([b"ab", b"c"]),
        np.array(["ab", "c"]),
    ],
    ids=["uint8", "big-endian", "strided", "bytes", "text"],
)
def test_arrays_and_plain_values_come_back(tmp_path, array, protocol):
    value = {"data": array, "labels": [1, 2], "more": ({"x"}, None, 2.5, b"raw\xff", "text"), "one": np.float32(3)}
    loaded = load_pickle(write(tmp_path / "p", value, protocol))
    np.testing.assert_array_equal(loaded["data"], array)
    assert loaded["data"].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert loaded["labels"] == [1, 2]
    assert loaded["more"] == ({"x"}, None, 2.5, b"raw\xff", "text")
    assert loaded["one"] == 3


def test_python_2_strings_stay_bytes_but_keys_become_text(tmp_path):
    stream = b"\x80\x02}U\x04dataU\x02\xff\x00s."  # what Python 2 wrote for {'data': '\xff\x00'}
    pickletools.dis(stream, out=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    assert load_pickle(write(tmp_path / "p", stream)) == {"data": b"\xff\x00"}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Calls(os.system, "true"), r"posix\.system"),
        (Calls(subprocess.check_output, "true"), r"subprocess\.check_output"),
        (Calls(eval, "1"), r"builtins\.eval"),
        (collections.OrderedDict(a=1), r"collections\.OrderedDict"),
        (Calls(np.load, "x"), r"numpy\.load"),
        ([np.float32], r"numpy\.float32"),
    ],
)
def test_any_other_class_is_refused_by_name(tmp_path, value, named):
    with pytest.raises(UserError, match=rf"p refers to {named}, but only numpy arrays"):
        load_pickle(write(tmp_path / "p", value, protocol=4))


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}, "x"], dtype=object),
        np.zeros(2, dtype=[("a", "i4"), ("b", "O")]),
        np.zeros(2, dtype="V8"),
        np.array(["2020-01-01"], dtype="M8[D]"),
    ],
    ids=["objects", "records", "void", "dates"],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_anything_but_plain_values_are_refused(tmp_path, value, protocol):
    with pytest.raises(UserError, match=r"more than numpy arrays and plain values|cannot be read as a pickle"):
        load_pickle(write(tmp_path / "p", value, protocol))


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"data": np.zeros(999)})[:500]])
def test_damaged_files(tmp_path, content):
    with pytest.raises(UserError, match=r"p cannot be read as a pickle|p is damaged"):
        load_pickle(write(tmp_path / "p", content))


def test_numpys_own_constructor_is_never_handed_out(tmp_path):
    stand_in = load_pickle(write(tmp_path / "p", b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n."))
    assert stand_in.__module__ == "kd.data.unpickle"


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        load_pickle(tmp_path / "nowhere")


PIXELS = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3], "holds 4 images and 3 labels"),
        ([1, 2, 3, 1, 2], "holds 4 images and 5 labels"),
        ([], "holds 4 images and 0 labels"),
        ([1, 2, 3, 1.0], r"label 3 is 1\.0 \(float\), no integer"),
        ([1, 2, 3, "1"], r"label 3 is '1' \(str\), no integer"),
        ([1, 2, 3, None], r"label 3 is None \(NoneType\), no integer"),
        ([1, 2, 3, True], r"label 3 is True \(bool\), no integer"),
        ([1, 2, 3, [1]], r"label 3 is \[1\] \(list\), no integer"),
        ([1, 2, 3, -1], r"labels must count from [01], found -1"),
        ([1, 2, 3, 10**30], r"labels must count from [01], found 10000"),
        (np.array([1, 2, 3, 1.0]), "label 0 is .*no integer"),
        (np.array([True] * 4), "label 0 is .*no integer"),
        (np.ones((4, 4), int), "label 0 is .*no integer"),
        (np.array(3), "labels must be a list of integers, found "),
        ("1231", "labels must be a list of integers, found str"),
        ({1: 2, 2: 3, 3: 1, 4: 1}, "labels must be a list of integers, found dict"),
    ],
    ids=[
        *("few", "many", "none", "float", "text", "nothing", "bool", "nested", "negative", "huge", "floats", "bools"),
        *("square", "scalar", "string", "dict"),
    ],
)
@pytest.mark.parametrize("source", ["cifar100", "imagenet32"])
def test_labels_that_are_not_one_small_integer_an_image(tmp_path, source, labels, message):
    """With fewer labels than images, those of all later batches would be shifted."""
    writer, file, key = {
        "cifar100": (write_cifar, "cifar-100-python/train", "fine_labels"),
        "imagenet32": (write_imagenet32, "train_data_batch_3", "labels"),
    }[source]
    path = writer(tmp_path / "root") / file
    write(path, {"data": PIXELS, key: labels})
    with pytest.raises(UserError, match=f"{path.name}.* {message}"):
        open_source(DatasetSettings(source=source, root=str(tmp_path / "root")))


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 2, 3], (0, 1, 2, 3), np.arange(4), np.arange(4, dtype=np.uint8)],
    ids=["list", "tuple", "int64", "uint8"],
)
def test_labels_of_every_integer_type(tmp_path, labels):
    root = write_cifar(tmp_path / "root")
    write(root / "cifar-100-python" / "train", {"data": PIXELS, "fine_labels": labels})
    source = open_source(DatasetSettings(source="cifar100", root=str(root)))
    assert source.labels["train"].tolist() == [0, 1, 2, 3]
    assert source.labels["train"].dtype == np.int64


def test_a_batch_without_images(tmp_path):
    root = write_imagenet32(tmp_path / "root")
    write(root / "val_data", {"data": PIXELS[:0], "labels": []}, protocol=4)
    with pytest.raises(UserError, match="val_data holds 0 images and 0 labels"):
        open_source(DatasetSettings(source="imagenet32", root=str(root)))


def test_batches_of_several_picture_sizes(tmp_path):
    root = write_imagenet32(tmp_path / "root")
    write(root / "train_data_batch_2", {"data": np.zeros((3, 3 * 64), np.uint8), "labels": [1, 2, 3]})
    with pytest.raises(UserError, match=r"train_data_batch_2 is 8x8 pixels and the first image is 32x32"):
        pack(DatasetSettings(source="imagenet32", root=str(root)), tmp_path / "packed", 1, False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("n01 2 fox\nn02 1 dog\n", r"map_clsloc.txt names no class for label 3"),
        ("n01 2 fox\nn02 1 dog\nn01 3 cat\n", "two classes are named 'n01'"),
        ("n01 \u00b2 fox\n", "names no class for label 1"),
    ],
)
def test_class_maps_that_cannot_be_used(tmp_path, lines, message):
    root = write_imagenet32(tmp_path / "root")
    (root / "map_clsloc.txt").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        open_source(DatasetSettings(source="imagenet32", root=str(root)))


def test_imagenet32_that_lacks_a_batch(tmp_path):
    root = write_imagenet32(tmp_path / "root")
    (root / "train_data_batch_7").unlink()
    with pytest.raises(UserError, match="lacks train_data_batch_7"):
        open_source(DatasetSettings(source="imagenet32", root=str(root)))


def test_imagenet32_labels_from_zero_are_refused(tmp_path):
    root = write_imagenet32(tmp_path / "root", first_label=0)
    with pytest.raises(UserError, match="labels must count from 1, found 0"):
        open_source(DatasetSettings(source="imagenet32", root=str(root)))

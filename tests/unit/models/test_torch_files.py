"""Checkpoints of the field's own scripts: the weights are found, and nothing that the file brings is run."""

import argparse
import bz2
import collections
import datetime
import gzip
import io
import lzma
import os
import pathlib
import pickle
import shutil
import tarfile
import types

import numpy as np
import pytest
import torch
from flips import read_flipped
from torch import nn

from kd.engine.checkpoint import load_state
from kd.models.build import build_model
from kd.models.torch_files import read_torch_file
from kd.models.weights import read_state
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, milestones=[1, 2], out=pathlib.Path("runs")),
    "nested": argparse.Namespace(inner=types.SimpleNamespace(a=np.float64(1.5))),
    "scalar": np.float32(71.5),
    "array": np.arange(4.0),
    "texts": np.array(["a", "b"]),
    "generator": np.random.RandomState(0).get_state(),
    "defaults": collections.defaultdict(list, {"a": [1]}),
    "ordered": collections.OrderedDict(a=1),
    "time": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "seconds": datetime.timedelta(seconds=3),
    "path": pathlib.Path("runs"),
    "type": np.dtype("float32"),
    "complex": 1j,
    "set": {1, 2},
    "version": torch.__version__,
    "rng": torch.get_rng_state(),
}


def state(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("beside", BESIDE)
def test_what_scripts_keep_beside_the_weights_is_passed_over(tmp_path, beside, legacy):
    path = tmp_path / "w.pth"
    content = {"state_dict": state(), "beside": BESIDE[beside], "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    found, entry = read_torch_file(path)
    assert entry == "state_dict"
    assert equal(found, state())


@pytest.mark.parametrize(("old", "new"), [(b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")])
def test_numpy_of_either_generation(tmp_path, old, new):
    path, buffer = tmp_path / "w.pth", io.BytesIO()
    torch.save({"model": state(), "acc": np.float64(71.5)}, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue().replace(old, new))
    assert equal(read_torch_file(path)[0], state())


def timm_script():
    # timm's CheckpointSaver
    args = argparse.Namespace(model="resnet18", opt_eps=None)
    return {"epoch": 3, "arch": "resnet18", "state_dict": state(1), "version": 2, "args": args, "metric": 71.5} | {
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "amp_scaler": {"scale": 2.0},
        "state_dict_ema": state(0),
    }


def torchvision_script():
    # references/classification/train.py with --model-ema; AveragedModel counts among the weights
    averaged = {f"module.{name}": value for name, value in state(0).items()}
    beside = {"optimizer": {}, "lr_scheduler": {"milestones": collections.Counter([30])}, "epoch": 3}
    args = argparse.Namespace(output_dir=pathlib.Path("."), lr=0.1)
    return {"model": state(1), **beside, "args": args, "model_ema": {"n_averaged": torch.tensor(5), **averaged}}


def repdistiller_script():
    return {
        "epoch": 240,
        "model": state(0),
        "best_acc": torch.tensor(71.5),
        "optimizer": {},
        "opt": argparse.Namespace(),
    }


def imagenet_script():
    # pytorch/examples/imagenet, DataParallel
    parallel = {f"module.{name}": value for name, value in state(0).items()}
    return {"epoch": 90, "arch": "resnet18", "state_dict": parallel, "best_acc1": torch.tensor(71.5), "optimizer": {}}


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        (timm_script(), "state_dict_ema"),
        (torchvision_script(), "model_ema"),
        (repdistiller_script(), "model"),
        (imagenet_script(), "state_dict"),
        ({"ema": {"state_dict": state(0), "decay": 0.999}, "model": state(1)}, "ema.state_dict"),
        ({"model": {"state_dict": state(0)}}, "model.state_dict"),
        ({"model_ema": None, "model_state_dict": state(0)}, "model_state_dict"),
        ({"net": state(0), "acc": 93.1, "epoch": 3}, "net"),
        (state(0), ""),
    ],
    ids=["timm", "torchvision", "RepDistiller", "imagenet", "ema", "nested", "no-ema", "pytorch-cifar", "plain"],
)
def test_entries_of_well_known_scripts_averaged_weights_first(tmp_path, content, entry, caplog):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with caplog.at_level("INFO"):
        found, took = read_state(path)
    assert took.get("entry", "") == entry
    assert equal({name.removeprefix("module."): value for name, value in found.items()}, state(0))
    assert (f"took '{entry}'" in caplog.text) == bool(entry)
    if "ema" in entry:
        assert "averaged weights" in caplog.text
        assert "it also holds" in caplog.text


class Planted:
    """What it is made of would leave a file behind."""

    def __init__(self, function, *arguments):
        self.made = (function, arguments)

    def __reduce__(self):
        return self.made


PAYLOADS = {
    "system": lambda mark: Planted(os.system, f"touch {mark}"),
    "eval": lambda mark: Planted(eval, f"open({str(mark)!r}, 'w')"),
    "touch": lambda mark: Planted(pathlib.Path.touch, mark),
    "within-namespace": lambda mark: argparse.Namespace(a=Planted(os.mkdir, str(mark))),
    "within-array": lambda mark: np.array([Planted(os.mkdir, str(mark))], dtype=object),
    "getattr": lambda mark: Planted(getattr, Planted(__import__, "os"), "getcwd"),
}


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "state"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_code_of_a_file_is_run(tmp_path, payload, form):
    mark, path = tmp_path / "executed", tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    content = {"state_dict": state(), "args": PAYLOADS[payload](mark)}
    torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(UserError) as refusal:
        (load_state if form == "state" else read_state)(path)
    assert not mark.exists()
    assert str(path) in str(refusal.value)
    assert "weights_only" not in str(refusal.value)
    assert "safe_globals" not in str(refusal.value)
    if form in {"zip", "legacy"}:
        assert "cannot be read as weights: it holds more than tensors, objects of " in str(refusal.value)
        assert "torch.save(model.state_dict(), 'weights.pth')" in str(refusal.value)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_whole_network_is_refused_by_its_class(tmp_path, legacy):
    path = tmp_path / "w.pth"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        UserError, match=r"w\.pth .*objects of torch\.nn\.modules\.container\.Sequential, and is refused"
    ):
        read_state(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    with pytest.raises(UserError, match=r"w\.pt is a TorchScript archive, which holds code, and is refused; in the"):
        read_state(path)


def test_a_tar_archive_is_no_file_of_weights(tmp_path):
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "a/0.png")
    with pytest.raises(UserError) as refusal:
        read_state(path)
    assert "is a tar archive and no file of weights: unpack it" in str(refusal.value)
    assert "weights_only" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"GIF89a", pickle.dumps({"a": 1})], ids=range(4))
def test_other_files_are_one_sentence(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pth (cannot be read as weights|holds no state dict)") as refusal:
        read_state(path)
    assert "weights_only" not in str(refusal.value)


def test_a_damaged_torch_file_is_named(tmp_path):
    path, values = tmp_path / "w.pth", torch.arange(1000.0)
    torch.save({"a": values}, path)
    content = bytearray(path.read_bytes())
    content[content.index(values.numpy().tobytes()) + 1001] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pth is damaged \(the checksum of its part .* differs\): fetch it again"):
        read_state(path)


def test_a_damaged_list_of_parts_is_one_sentence(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(2)}, path)
    whole = path.read_bytes()
    for byte in range(whole.index(b"PK\x01\x02"), len(whole)):
        _, refusal = read_flipped(path, whole, 8 * byte + byte % 8, lambda: read_state(path))
        assert str(path) in refusal or not refusal


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zip", "tar"])
@pytest.mark.parametrize("cut", [0, 1, 20], ids="cut{}".format)
def test_packed_and_cut_files_are_one_sentence(tmp_path, suffix, cut):
    inner, path = tmp_path / "w.pth", tmp_path / f"w.pth.{suffix}"
    torch.save({"a": torch.ones(200)}, inner)
    if suffix in {"zip", "tar"}:
        shutil.make_archive(str(inner), suffix, tmp_path, inner.name)
    else:
        opened = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[suffix]
        with opened(path, "wb") as file:
            file.write(inner.read_bytes())
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    with pytest.raises(UserError, match=r"w\.pth\.\w+ (is|cannot be read)"):
        read_state(path)


def test_safetensors_under_another_name(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "model.bin")
    assert torch.equal(read_state(tmp_path / "model.bin")[0]["a"], torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_weights_are_used_as_float32_and_told(tmp_path, dtype, caplog):
    path = tmp_path / "w.pth"
    torch.manual_seed(0)
    first = build_model(ModelSettings(arch="resnet8"), 10, 8)
    torch.save({name: value.to(dtype) for name, value in first.state_dict().items()}, path)
    with caplog.at_level("INFO"):
        second = build_model(ModelSettings(arch="resnet8", pretrained=str(path)), 10, 8)
    assert second.fc.weight.dtype == torch.float32
    assert torch.equal(second.fc.weight, first.fc.weight.to(dtype).float())
    assert f"stored as {dtype}" in caplog.text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: (100 * value).to(torch.int64), "'fc.weight' holds torch.int64 and no fractions"),
        (lambda value: value / 0, "'fc.weight' holds values that are not finite"),
    ],
    ids=["integers", "infinite"],
)
def test_weights_that_would_be_wrong_numbers(tmp_path, change, reason):
    path = tmp_path / "w.pth"
    weights = build_model(ModelSettings(arch="resnet8"), 10, 8).state_dict()
    torch.save(weights | {"fc.weight": change(weights["fc.weight"])}, path)
    with pytest.raises(UserError, match=reason):
        build_model(ModelSettings(arch="resnet8", pretrained=str(path)), 10, 8)

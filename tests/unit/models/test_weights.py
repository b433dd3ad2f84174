"""Checkpoints: what was saved comes back, and weights of another network are refused in one sentence."""

import hashlib
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch
from flips import read_flipped
from safetensors import safe_open
from safetensors.torch import save_file

from kd.models.build import build_model
from kd.models.weights import load_weights, read_state, save_tensors, save_weights
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def net(arch="resnet8", classes=10, seed=0, **settings):
    torch.manual_seed(seed)
    return build_model(ModelSettings(arch=arch, **settings), classes, 32)


def same(first, second, without=()):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(torch.equal(a, b) for (name, a), (_, b) in pairs if name not in without)


@pytest.mark.parametrize("arch", ["resnet8", "timm:test_resnet"])
def test_round_trip(tmp_path, arch):
    path = tmp_path / "w.safetensors"
    first = net(arch).to(memory_format=torch.channels_last)
    save_weights(first, path, {"epoch": "3"})
    second = net(arch, seed=1)
    assert not same(first, second)
    assert load_weights(second, path) == {"epoch": "3", "arch": arch, "num_classes": "10"}
    assert same(first, second)
    with safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["about"]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_of_another_architecture(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(net("wrn_16_1"), path)
    model = net("resnet8")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        UserError, match=r"w.safetensors does not fit resnet8 \(the file holds wrn_16_1 with 10 classes\)"
    ):
        load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_with_another_number_of_classes(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(net(classes=5), path)
    with pytest.raises(UserError, match=r"'fc\.weight' has shape 5x64 there and 10x64 here"):
        load_weights(net(), path)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02."])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_file_that_holds_no_weights(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} cannot be read as weights"):
        load_weights(net(), path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        net(pretrained=str(tmp_path / "none.pth"))


def test_a_pickle_of_code_is_refused(tmp_path):
    class Planted:
        def __reduce__(self):
            return (print, ("executed",))

    path = tmp_path / "w.pth"
    torch.save({"state_dict": Planted()}, path)
    with pytest.raises(UserError, match=r"cannot be read as weights.*more than tensors"):
        load_weights(net(), path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"model": {"optimizer": {}}}])
def test_a_torch_file_without_a_state_dict(tmp_path, content):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match="holds no state dict"):
        net(pretrained=str(path))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_pretrained_from_a_torch_file(tmp_path, wrapper, prefix):
    path = tmp_path / "w.pth"
    first = net()
    state = {prefix + name: value for name, value in first.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    assert same(net(seed=1, pretrained=str(path)), first)


def test_pretrained_with_another_head_keeps_the_body(tmp_path, caplog):
    path = tmp_path / "w.safetensors"
    first = net(classes=7)
    save_weights(first, path)
    with caplog.at_level("INFO"):
        second = net(seed=1, pretrained=str(path))
    assert same(first, second, without={"fc.weight", "fc.bias"})
    assert "fc.bias, fc.weight not loaded" in caplog.text


@pytest.mark.parametrize("arch", ["resnet8x4", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_foreign_names_in_the_same_order(tmp_path, arch, caplog):
    path = tmp_path / "w.pth"
    first = net(arch)
    foreign = {f"layer{i}.{name.rpartition('.')[2]}": v for i, (name, v) in enumerate(first.state_dict().items())}
    torch.save({name: value for name, value in foreign.items() if "num_batches" not in name}, path)
    with caplog.at_level("INFO"):
        second = net(arch, seed=1, pretrained=str(path))
    assert same(first, second)
    assert "matched by order and shape" in caplog.text


def test_order_is_not_enough_when_the_kinds_of_tensor_differ(tmp_path):
    path = tmp_path / "w.pth"
    names = {"weight": "bias", "bias": "weight"}
    state = net().state_dict()
    torch.save({f"l{i}.{names.get(n.rpartition('.')[2], 'x')}": v for i, (n, v) in enumerate(state.items())}, path)
    with pytest.raises(UserError, match="does not fit resnet8"):
        net(pretrained=str(path))


def test_flipped_bits_of_weights_are_noticed_or_change_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(net(), path, {"epoch": "3"})
    whole, expected, draws = path.read_bytes(), read_state(path), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    for byte in [*draws.sample(range(header), 40), *draws.sample(range(header, len(whole)), 40)]:
        found, refusal = read_flipped(path, whole, 8 * byte + draws.randrange(8), lambda: read_state(path))
        assert str(path) in refusal or not refusal
        if not refusal:
            # only the name of the entry that holds notes and checksum may pass, and then the tensors are as they were
            assert byte < header
            assert "about" not in found[1]
            assert all(torch.equal(value, found[0][name]) for name, value in expected[0].items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_tensors_of_every_kind_keep_their_checksum(tmp_path, dtype, shape):
    value = torch.ones(shape).to(dtype)
    save_tensors(tmp_path / "x.safetensors", {"a.b": value}, {"split": "abc"})
    state, notes = read_state(tmp_path / "x.safetensors")
    assert state["a.b"].dtype == dtype
    assert torch.equal(state["a.b"], value)
    assert notes == {"split": "abc"}


def test_safetensors_of_others_need_no_checksum(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "hub.safetensors", metadata={"format": "pt", "arch": "x"})
    assert read_state(tmp_path / "hub.safetensors")[1] == {"format": "pt", "arch": "x"}


def test_the_same_tensors_are_the_same_bytes_in_every_process(tmp_path):
    program = (
        "import sys, torch; from kd.models.weights import save_tensors; names = ('epoch', 'arch', 'x', 'y', 'z');"
        "save_tensors(sys.argv[1], {n: torch.ones(3) for n in 'badc'}, {n: n for n in names})"
    )
    found = set()
    for number in range(3):
        path = tmp_path / f"{number}.safetensors"
        subprocess.run([sys.executable, "-c", program, str(path)], check=True, env=ENVIRONMENT)
        found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_published_file_is_compared_with_the_digest_in_its_name(tmp_path, form, caplog):
    """In torch's old format and in others' safetensors the numbers have no checksum but this one."""
    state, plain = net().state_dict(), tmp_path / "plain"
    if form == "safetensors":
        save_file(state, plain)
    else:
        torch.save(state, plain, _use_new_zipfile_serialization=form == "zip")
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    for name, told in (
        (f"resnet8-{digest[:8]}.pth", False),
        (f"resnet8_b32-{digest}.pth", False),
        ("resnet8-20240131.pth", False),
        ("resnet8-0badc0de.pth", True),
        ("resnet8-0badc0de.bin", True),
    ):
        caplog.clear()
        shutil.copyfile(plain, tmp_path / name)
        net(pretrained=str(tmp_path / name))
        assert ("its SHA-256 begins with" in caplog.text) == told


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_format_without_checksums_is_told(tmp_path, legacy, caplog):
    torch.save(net().state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    read_state(tmp_path / "w.pth")
    assert ("holds no checksums" in caplog.text) == legacy

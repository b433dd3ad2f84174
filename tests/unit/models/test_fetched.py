"""Finished teachers come out of an archive whole and as their own networks, or not at all."""

import argparse
import http.server
import io
import tarfile
import threading

import pytest
import torch
import yaml

from kd.models.build import build_model
from kd.models.fetched import fetch_teachers
from kd.models.weights import read_state
from kd.schema.config import Experiment, ModelSettings
from kd.tools.errors import UserError

NAMES = ("resnet8", "vgg8")


def weights(arch, num_classes=100):
    torch.manual_seed(len(arch))
    return build_model(ModelSettings(arch=arch), num_classes, 32).state_dict()


def checkpoint(arch, num_classes=100):
    """Return what the field's scripts save, as bytes: weights under 'model', and the options of the run beside them."""
    file = io.BytesIO()
    torch.save({"epoch": 240, "model": weights(arch, num_classes), "opt": argparse.Namespace(lr=0.05)}, file)
    return file.getvalue()


def packed(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    files = {f"cifar_teachers/{name}_vanilla/ckpt_epoch_240.pth": checkpoint(name) for name in NAMES}
    others = {"cifar_teachers/README.md": b"teachers", "cifar_teachers/other_vanilla/ckpt_epoch_240.pth": b"x"}
    return packed(tmp_path_factory.mktemp("archive") / "teachers.tar", {**others, **files})


@pytest.fixture
def address(archive):
    """Serve the archive's folder on this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(archive.parent))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{archive.name}"
        server.shutdown()


def test_every_network_of_an_address_is_laid_out_as_it_came(archive, address, tmp_path):
    found = fetch_teachers(address, (), tmp_path)
    assert found == {name: tmp_path / f"{name}_vanilla" / "ckpt_epoch_240.pth" for name in NAMES}
    with tarfile.open(archive) as tar:
        given = {member.name.split("/")[-2].removesuffix("_vanilla"): tar.extractfile(member).read() for member in tar}
    for name, path in found.items():
        assert path.read_bytes() == given[name]
        state, notes = read_state(path)
        assert notes == {"entry": "model"}
        assert all(torch.equal(value, state[key]) for key, value in weights(name).items())
    assert {path.name for path in tmp_path.iterdir()} == {"models.yaml", *(f"{name}_vanilla" for name in NAMES)}


def test_an_experiment_takes_them_by_a_second_file(archive, tmp_path):
    folder = tmp_path / "teachers, 'mine': 1"  # a name that YAML must quote
    fetch_teachers(str(archive), ["vgg8"], folder)
    entries = yaml.safe_load((folder / "models.yaml").read_text(encoding="utf-8"))
    path = str(folder / "vgg8_vanilla" / "ckpt_epoch_240.pth")
    assert entries == {"models": {"vgg8": {"arch": "vgg8", "pretrained": path, "train": False}}}
    assert not (folder / "resnet8_vanilla").exists(), "only what was asked for"
    whole = {
        "experiment": "fetched",
        "datasets": {"cifar100": {"source": "cifar100"}},
        "pairs": [{"teachers": ["vgg8"], "student": "resnet8"}],
        "methods": ["kd"],
        "seeds": [0],
        "recipe": {"epochs": 1},
    }
    assert Experiment.model_validate({**whole, **entries}).models["vgg8"].train is False


def test_teachers_that_were_fetched_one_by_one_are_all_used(archive, tmp_path):
    for name in reversed(NAMES):
        assert fetch_teachers(str(archive), [name], tmp_path).keys() == {name}
    entries = yaml.safe_load((tmp_path / "models.yaml").read_text(encoding="utf-8"))["models"]
    files = {name: str(tmp_path / f"{name}_vanilla" / "ckpt_epoch_240.pth") for name in NAMES}
    assert {name: entry["pretrained"] for name, entry in entries.items()} == files


def refused(archive, folder, message, names=()):
    with pytest.raises(UserError, match=message):
        fetch_teachers(str(archive), names, folder)
    assert not list(folder.rglob("*.*")), "nothing is left of it"


def test_names_are_checked_before_and_after(archive, tmp_path):
    refused("nowhere.tar", tmp_path, "unknown network 'resnet65': did you mean 'resnet56'", ["resnet65"])
    with pytest.raises(UserError, match=r"has no weights of vgg13 or wrn_40_2: it has resnet8$"):
        fetch_teachers(str(archive), ["resnet8", "vgg13", "wrn_40_2"], tmp_path)
    assert not (tmp_path / "models.yaml").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"no weights", r"x/vgg8_vanilla/a\.pth"),
        (lambda: checkpoint("vgg11"), r"x/vgg8_vanilla/a\.pth"),
        (lambda: checkpoint("vgg8", 10), r"x/vgg8_vanilla/a\.pth is of other than 100 classes"),
    ],
    ids=["text", "another network", "other classes"],
)
def test_what_is_not_the_networks_weights_is_not_written(content, message, tmp_path):
    archive = packed(tmp_path / "teachers", {"x/vgg8_vanilla/a.pth": content()})
    refused(archive, tmp_path / "out", message)


def test_archives_that_cannot_be_read_are_one_sentence(archive, address, tmp_path):
    refused(tmp_path / "nowhere.tar", tmp_path, "cannot fetch .*nowhere.tar: .*No such file")
    refused(f"{address}.gz", tmp_path, r"cannot fetch http.*: HTTP Error 404.*named with --archive")
    (tmp_path / "text").write_bytes(b"no archive")
    out = tmp_path / "out"
    refused(tmp_path / "text", out, "cannot fetch .*text: ")
    (tmp_path / "cut").write_bytes(archive.read_bytes()[:100_000])
    refused(tmp_path / "cut", out, "cannot fetch .*cut: unexpected end of data")
    refused(packed(tmp_path / "empty", {"a.txt": b"a"}), out, "has no weights: none of its files is called NETWORK_van")


def test_packed_archives_are_read_too(archive, tmp_path):
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    assert fetch_teachers(str(packed(tmp_path / "a.tar.gz", files, "w:gz")), ["resnet8"], tmp_path / "out")


def test_no_member_is_written_anywhere_else(tmp_path):
    """Only the network's name and the file's are taken from a member's; links and folders hold no weights."""
    link = tarfile.TarInfo("x/vgg8_vanilla/a.pth")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = packed(tmp_path / "teachers", {"../../resnet8_vanilla/a.pth": checkpoint("resnet8")})
    with tarfile.open(path, "a") as tar:
        tar.addfile(link)
    assert fetch_teachers(str(path), (), tmp_path / "out").keys() == {"resnet8"}
    assert not list(tmp_path.glob("resnet8_vanilla"))

"""States of a training: written whole, read without running code, refused where they are damaged."""

import random

import pytest
import torch
from flips import read_flipped
from torch import nn

from kd.engine.checkpoint import ResumeFile, load_state, restore_rng, rng_state, save_state
from kd.tools.errors import UserError

CPU = torch.device("cpu")


def test_generators_of_a_cpu_can_be_taken_up_on_a_gpu(monkeypatch):
    state, told = rng_state(CPU), []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *arguments: told.append(arguments))
    drawn = torch.rand(3)
    restore_rng(state, torch.device("cuda", 0))
    assert torch.equal(torch.rand(3), drawn)
    assert told == []


def test_states_hold_no_code(tmp_path):
    save_state(tmp_path / "state.pt", {"a": torch.ones(2), "rows": [{"epoch": 1}]})
    assert load_state(tmp_path / "state.pt")["rows"] == [{"epoch": 1}]
    torch.save({"bad": nn.Linear(1, 1)}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_state(tmp_path / "bad.pt")


def test_flipped_bits_of_a_state_are_noticed_or_change_nothing(tmp_path):
    path, state = tmp_path / "state.pt", {"a": torch.arange(300.0), "rows": [{"epoch": 1, "val_top1": 71.5}]}
    save_state(path, state)
    whole, draws = path.read_bytes(), random.Random(0)
    tensors = whole.index(state["a"].numpy().tobytes())
    for byte in [*range(tensors, tensors + 1200, 31), *draws.sample(range(len(whole)), 60)]:
        found, refusal = read_flipped(path, whole, 8 * byte + draws.randrange(8), lambda: load_state(path))
        assert str(path) in refusal or not refusal
        if not refusal:
            assert not tensors <= byte < tensors + 1200
            assert torch.equal(found["a"], state["a"])
            assert found["rows"] == state["rows"]


def test_a_part_that_is_marked_as_a_folder_is_noticed(tmp_path):
    """Torch would read it without an error, and take its numbers from what memory held before."""
    path, state = tmp_path / "state.pt", {"a": torch.arange(300.0)}
    save_state(path, state)
    whole = path.read_bytes()
    listed = whole.index(b"PK\x01\x02", whole.index(b"byteorderPK\x01\x02") + len("byteorder"))
    _, refusal = read_flipped(path, whole, 8 * (listed + 38) + 4, lambda: load_state(path))
    assert "is damaged (its part archive/data/0 is marked as a folder): delete it" in refusal


def test_a_damaged_resume_file_means_a_new_start(tmp_path, caplog):
    file = ResumeFile(tmp_path / "resume.pt", "stamp")
    file.save({"a": torch.arange(300.0)})
    content = bytearray(file.path.read_bytes())
    content[content.index(torch.arange(300.0).numpy().tobytes()) + 9] ^= 4
    file.path.write_bytes(content)
    assert file.load() is None
    assert "starting from the beginning" in caplog.text
    assert "is damaged" in caplog.text


def test_the_same_state_is_the_same_bytes(tmp_path):
    for name in ("state.pt", "another_name.pt"):
        save_state(tmp_path / name, {"a": torch.ones(2), "rows": [{"epoch": 1}]})
    assert (tmp_path / "state.pt").read_bytes() == (tmp_path / "another_name.pt").read_bytes()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*resume\.pt: No space left"):
        ResumeFile(tmp_path / "resume.pt", "stamp").save({})
    assert list(tmp_path.iterdir()) == []

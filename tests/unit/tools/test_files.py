"""Files are whole or absent, on the disk before they have their name, and say so when they were damaged."""

import errno
import os
import stat
import zlib

import pytest
from flips import read_flipped

from kd.tools import files
from kd.tools.errors import UserError
from kd.tools.files import atomic_path, atomic_write, leftovers, read_json, whole_crc32, write_json

RECORD = {"status": "ok", "seconds": {"train": 12.375}, "epochs": 240, "test_top1": 71.43, "note": None, "x": [1e-8]}


def test_files_are_whole_or_absent(tmp_path):
    target = tmp_path / "out.json"

    def fail_halfway():
        with atomic_path(target) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []
    atomic_write(target, "{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(target)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o007])
def test_a_file_has_the_permissions_that_any_new_file_gets(tmp_path, mask):
    """Also one whose writer, as safetensors does, makes it for its owner alone."""
    before = os.umask(mask)
    try:
        (tmp_path / "plain").write_text("", encoding="utf-8")
        with atomic_path(tmp_path / "written") as temporary:
            temporary.write_text("x", encoding="utf-8")
            temporary.chmod(0o600)
        assert os.umask(mask) == mask, "asking for the mask has not changed it"
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found == {"plain": 0o666 & ~mask, "written": 0o666 & ~mask}


def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    order, opened = [], {}
    kept = {name: getattr(os, name) for name in ("open", "fsync", "replace")}

    def opening(path, *arguments, **keywords):
        handle = kept["open"](path, *arguments, **keywords)
        opened[handle] = str(path)
        return handle

    def fsync(handle):
        path = opened[handle]
        order.append(("sync", "file" if ".part" in path else os.path.relpath(path, tmp_path)))
        kept["fsync"](handle)

    def replace(source, target):
        order.append(("replace", target.name))
        kept["replace"](source, target)

    for name, function in (("open", opening), ("fsync", fsync), ("replace", replace)):
        monkeypatch.setattr(os, name, function)
    atomic_write(tmp_path / "a" / "b" / "out.txt", "x")
    folders = [("sync", "a"), ("sync", ".")]  # the names of the folders that had to be made
    assert order == [*folders, ("sync", "file"), ("replace", "out.txt"), ("sync", os.path.join("a", "b"))]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    atomic_write(tmp_path / "out.txt", "x")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "x"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EDQUOT, "Disk quota exceeded"),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
    ],
    ids=["full", "quota", "read-only", "permission"],
)
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_what_the_system_refuses_is_one_sentence(tmp_path, monkeypatch, number, reason, step):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    atomic_write(tmp_path / "out.txt", "before")
    if step == "write":
        monkeypatch.setattr(files.Path, "write_bytes", refuse)
    else:
        monkeypatch.setattr(os, step, refuse)
    with pytest.raises(UserError, match=f"^cannot write .*out.txt: {reason}$"):
        atomic_write(tmp_path / "out.txt", "after")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "before"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("file/below.txt", "File exists"),
        ("file/below/it.txt", "Not a directory"),
        ("folder", "Is a directory"),
        ("n" * 300, "File name too long"),
        ("/".join(["d" * 200] * 30), "File name too long"),
    ],
    ids=["below-a-file", "far-below-a-file", "folder", "long-name", "long-path"],
)
def test_places_where_no_file_can_be(tmp_path, path, reason):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f": {reason}$"):
        atomic_write(tmp_path / path, "x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_leftovers_are_the_staging_names_and_nothing_else(tmp_path):
    made = []
    for path in (tmp_path / "run.json", tmp_path / "deep" / "er" / "best.safetensors", tmp_path / "plain"):
        path.parent.mkdir(parents=True, exist_ok=True)
        made.append(files.staging_name(path))
        made[-1].touch()
        path.touch()
    folder = files.staging_name(tmp_path / "data")
    folder.mkdir()
    files.staging_name(folder / "inner.npy").touch()
    for name in (".hidden", ".a.12345678.json", "a.12345678.part", ".a.1234567g.part", ".a.12345678.partial.json"):
        (tmp_path / name).touch()
    assert leftovers(tmp_path) == sorted([*made, folder])
    assert leftovers(tmp_path / "absent") == []


def test_a_long_name_leaves_room_for_its_staging_name(tmp_path):
    name = "n" * 250 + ".json"
    atomic_write(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_json_comes_back_without_its_checksum(tmp_path):
    write_json(tmp_path / "run.json", RECORD)
    assert read_json(tmp_path / "run.json", sealed=True) == RECORD
    write_json(tmp_path / "list.json", [1, 2])
    assert read_json(tmp_path / "list.json") == [1, 2]


def test_every_flipped_bit_of_a_json_file_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, RECORD)
    whole = path.read_bytes()
    tried = noticed = 0
    for position in range(8 * len(whole)):
        tried += 1
        found, refusal = read_flipped(path, whole, position, lambda: read_json(path))
        if refusal:
            assert refusal.startswith(f"{path} is damaged")
            noticed += 1
        else:
            # the name of the checksum's own key, or 1E-08 for 1e-08: what it holds is what was written
            assert {key: found.get(key) for key in RECORD} == RECORD
    assert tried - noticed <= 8 * len(files.CHECKSUM) + 1
    path.write_bytes(whole.replace(b'"checksum"', b'"checksun"'))
    with pytest.raises(UserError, match="lacks its checksum"):
        read_json(path, sealed=True)


def test_json_that_others_wrote_needs_no_checksum(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8")
    assert read_json(tmp_path / "x.json") == {"a": 1}
    (tmp_path / "x.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match="is damaged, it is not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def test_checksum_of_a_file_is_zlibs(tmp_path):
    content = os.urandom(10_000)
    (tmp_path / "x").write_bytes(content)
    assert whole_crc32(tmp_path / "x") == zlib.crc32(content)

"""Class folders in archives: whatever is wrong with one is told, and nothing hangs or is left out in silence."""

import gzip
import io
import itertools
import os
import random
import stat
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from data_builders import archive_of, packed_as, tar_of, write_tree
from PIL import Image

from kd.data import archives
from kd.data.archives import list_archives
from kd.data.folder_tree import find_layout
from kd.data.packed import Packed
from kd.data.packing import pack
from kd.schema.config import DatasetSettings
from kd.tools.errors import UserError

SUFFIXES = [".tar", ".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz"]


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "tree")


@pytest.fixture(scope="module")
def picture():
    """One small PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def packed(folder, *paths, root=None) -> Packed:
    settings = DatasetSettings(
        source="imagefolder", root=str(root) if root else None, archives=[str(path) for path in paths]
    )
    pack(settings, folder, 1, False)
    return Packed(folder)


def counted(*paths) -> list[int]:
    layout = find_layout(list_archives([*paths]), None, 0)
    return np.bincount(layout.labels["train"]).tolist()


@pytest.mark.parametrize("top", ["", "./", "wrapped/deeper/"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_archives_hold_what_the_directory_holds(tmp_path, tree, suffix, top):
    """The same class folders may lie in several archives; the packed arrays are those of the directory."""
    halves = [
        archive_of(tree, tmp_path / f"a{suffix}", lambda name: name[-5] in "02", top),
        archive_of(tree, tmp_path / f"b{suffix}", lambda name: name[-5] in "13", top),
    ]
    whole = packed(tmp_path / "1", root=tree).manifest
    parts = packed(tmp_path / "2", *halves[::-1]).manifest
    assert whole["digests"] == parts["digests"]
    assert whole["classes"] == parts["classes"] == ["ant", "bee", "cat"]


@pytest.mark.parametrize(("name", "kind"), [("a.tar", "b.zip"), ("a.tar.gz", "b.tar"), ("a.tar", "b.tar.xz")])
def test_the_kind_is_read_from_the_content(tmp_path, tree, name, kind):
    """Browsers unpack downloads, and people rename files."""
    archive_of(tree, tmp_path / kind).rename(tmp_path / name)
    assert counted(tmp_path / name) == [4, 4, 4]


def member(name, content=b"", **fields) -> bytes:
    """One member of a tar: header, content, padding; `fields` are those of tarfile.TarInfo."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    header = info.tobuf(tarfile.GNU_FORMAT)
    return header + content + bytes(-len(content) % 512)


def field(block: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite part of a tar header and put its sum right."""
    changed = bytearray(block)
    changed[offset : offset + len(value)] = value
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


END = bytes(1024)
NAMES = [f"train/{c}/{k}.png" for c in "ab" for k in range(9)]
BODY = b"".join(member(name, bytes([1] * 700)) for name in NAMES)
TAR = BODY + END
ENDLESS = 2**62
NUMBER = b"\x80" + (2**62).to_bytes(11, "big")
NEGATIVE = b"\xff" * 10 + b"\xfc\x00"


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("pax", records, type=kind)


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    size = len(body) + 1
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return str(size).encode() + body


BAD = {
    "no tar": ("a.tar", b"not a tar file" * 99, r"a\.tar is damaged or cut short"),
    "empty file": ("a.tar", b"", "damaged or cut short: empty file"),
    "only zeros": ("a.tar", bytes(10240), "holds no images"),
    "cut in content": ("a.tar", TAR[:6000], "damaged or cut short"),
    "cut between members": ("a.tar", BODY, "the end mark is missing"),
    "cut in a header": ("a.tar", BODY[:-1536] + BODY[-1536:-1300], "a header is damaged"),
    "half an end mark": ("a.tar", BODY + bytes(100), "damaged or cut short"),
    "header in the middle": ("a.tar", TAR[:3072] + b"x" + TAR[3073:], "a header is damaged"),
    "joined by cat": ("a.tar", TAR + TAR, r"more after the end mark \(several archives in one file"),
    "garbage behind": ("a.tar", TAR + b"garbage", "more after the end mark"),
    "no gzip": ("a.tar.gz", b"not gzip", "damaged or cut short"),
    "cut gzip": ("a.tar.gz", gzip.compress(TAR, mtime=0)[:-30], "damaged or cut short"),
    "gzip's sum": ("a.tar.gz", gzip.compress(TAR, mtime=0)[:-8] + bytes(8), "damaged or cut short"),
    "gzip and garbage": ("a.tar.gz", gzip.compress(TAR, mtime=0) + b"garbage", "damaged or cut short"),
    "gzips of two tars": ("a.tar.gz", gzip.compress(TAR, mtime=0) * 2, "more after the end mark"),
    "gzip without end": ("a.tgz", gzip.compress(BODY, mtime=0), "the end mark is missing"),
    "cut bz2": ("a.tar.bz2", packed_as("a.bz2", TAR)[:-30], "damaged or cut short"),
    "cut xz": ("a.tar.xz", packed_as("a.xz", TAR)[:-30], "damaged or cut short"),
    "flipped xz": ("a.tar.xz", packed_as("a.xz", TAR)[:80] + b"~~~~" + packed_as("a.xz", TAR)[84:], "damaged"),
    "flipped bz2": ("a.tar.bz2", packed_as("a.bz2", TAR)[:80] + b"~~~~" + packed_as("a.bz2", TAR)[84:], "damaged"),
    "no zip": ("a.zip", b"PK not a zip", "damaged or cut short"),
    "empty zip": ("a.zip", b"PK\5\6" + bytes(18), "holds no images"),
    "outside": ("a.tar", member("../evil.png") + END, r"has a member outside its own tree: \.\./evil\.png"),
    "absolute": ("a.tar", member("/train/a/evil.png") + END, "has a member outside its own tree"),
    "twice": ("a.tar", BODY + member(NAMES[0]) + member("test/a/1.png") + END, r"train/a/0\.png is there twice"),
    "size beyond the file": ("a.tar", field(member("train/a/0.png"), 124, NUMBER) + END, "damaged or cut short"),
    "size beyond the gzip": (
        "a.tgz",
        gzip.compress(field(member("train/a/0.png"), 124, NUMBER) + END, mtime=0),
        "says that its .* bytes unpack to",
    ),
    "negative size": ("a.tar", BODY + field(member("train/a/x.png"), 124, NEGATIVE) + END, "damaged or cut short"),
    "endless pax header": ("a.tar", field(pax(b""), 124, NUMBER) + END, "a header of 4,611,686"),
    "negative pax header": ("a.tar", BODY + field(pax(b""), 124, NEGATIVE) + END, "damaged or cut short"),
    "pax without content": ("a.tar", BODY + pax(record("path", "x")), "damaged or cut short"),
    "pax size": ("a.tar", pax(record("size", "99999999999999")) + member("train/a/0.png") + END, "damaged"),
    "pax size is no number": ("a.tar", pax(record("size", "many")) + member("train/a/0.png", b"x") + END, "."),
    "many pax headers": ("a.tar", pax(record("comment", "x")) * 3000 + member("train/a/0.png") + END, "damaged"),
    "endless long name": ("a.tar", field(member("n", type=b"L"), 124, NUMBER) + END, "a header of"),
    "unknown kind": ("a.tar", BODY + member("train/a/x.png", type=b"V") + END, r"x\.png is .* of an unknown kind"),
    "sparse": (
        "a.tar",
        BODY + field(member("train/a/x.png", type=tarfile.GNUTYPE_SPARSE), 483, NUMBER) + END,
        r"train/a/x\.png is a file with holes",
    ),
    "pax sparse": (
        "a.tar",
        BODY
        + pax(record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.realsize", "9"))
        + member("train/a/x.png", b"99999999\n" + b"1\n" * 200)
        + END,
        "damaged or cut short",
    ),
    "dead hard link": (
        "a.tar",
        BODY + member("train/a/x.png", type=tarfile.LNKTYPE, linkname="train/a/no.png") + END,
        r"train/a/x\.png is a link to a file that is not in the archives",
    ),
    "dead link": (
        "a.tar",
        BODY + member("train/a/x.png", type=tarfile.SYMTYPE, linkname="/home/me/x.png") + END,
        "is a link to a file that is not in the archives",
    ),
    "circle of links": (
        "a.tar",
        BODY
        + member("train/a/x.png", type=tarfile.SYMTYPE, linkname="y.png")
        + member("train/a/y.png", type=tarfile.SYMTYPE, linkname="x.png")
        + END,
        "is a link to a file that is not in the archives",
    ),
    "link to a folder": (
        "a.tar",
        BODY + member("train/c", type=tarfile.SYMTYPE, linkname="a") + END,
        "train/c is a link to the folder train/a",
    ),
    "line breaks in names": (
        "a.tar",
        BODY + member("train/a/x\n.png", type=b"V") + END,
        r"train/a/x\\n\.png is a file",
    ),
    "link to itself outside": (
        "a.tar",
        BODY + member("train/a/x.png", type=tarfile.LNKTYPE, linkname="../x.png") + END,
        "has a member outside its own tree",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_archives_that_cannot_be_used(tmp_path, case):
    file, content, message = BAD[case]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        find_layout(list_archives([tmp_path / file]), None, 0)
    assert "\n" not in str(told.value)


def test_archives_that_are_none(tmp_path, tree):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "a.rar").write_bytes(b"x")
    path = archive_of(tree, tmp_path / "a.tar")
    (tmp_path / "b.tar").symlink_to(path)
    for listed, message in (
        (["missing.tar"], "missing.tar does not exist"),
        (["pipe.tar"], "pipe.tar is no file"),
        (["folder.tar"], "folder.tar is no file"),
        (["a.rar"], r"a\.rar is none of \.tar, \.tar\.gz, \.tgz, \.zip"),
        (["a.tar", "b.tar"], r"b\.tar is listed twice"),
    ):
        with pytest.raises(UserError, match=message):
            list_archives([tmp_path / name for name in listed])


def test_the_same_picture_in_two_archives_is_refused(tmp_path, tree):
    paths = [archive_of(tree, tmp_path / name) for name in ("a.tar", "b.zip")]
    with pytest.raises(UserError, match=r"train/ant/0\.png is there twice"):
        counted(*paths)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_links_count_as_the_pictures_they_lead_to(tmp_path, tree, suffix):
    """A hard link in a tar is nothing but the name of an earlier member; a symbolic one may come before it."""
    (tree / "train" / "ant" / "9.png").hardlink_to(tree / "train" / "ant" / "0.png")
    (tree / "train" / "bee" / "8.png").symlink_to("../ant/1.png")
    (tree / "train" / "bee" / "9.png").symlink_to("8.png")
    data = packed(tmp_path / "p", archive_of(tree, tmp_path / f"a{suffix}"))
    assert np.bincount(data.labels["train"]).tolist() == [5, 6, 4]
    assert data.manifest["digests"] == packed(tmp_path / "q", root=tree).manifest["digests"]


def test_links_that_tools_leave_are_passed_over(tmp_path, tree):
    """Those in their folders, and those to files that are not there and would be no pictures."""
    for name, target in ((".git/x.png", "nowhere"), ("__MACOSX/all", "../train"), ("latest", "/home/me/run-7")):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).symlink_to(target)
    content = member("./", type=tarfile.DIRTYPE) + tar_of(tree, sorted(tree.rglob("*")))
    (tmp_path / "a.tar").write_bytes(content)
    assert counted(tmp_path / "a.tar") == [4, 4, 4]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../../tree"])
def test_links_back_are_passed_over_as_in_a_directory(tmp_path, tree, target):
    (tree / "train" / "ant" / "self").symlink_to(target)
    (tmp_path / "a.tar").write_bytes(tar_of(tmp_path, sorted(tmp_path.rglob("*"))))
    data = packed(tmp_path / "p", tmp_path / "a.tar")
    assert np.bincount(data.labels["train"]).tolist() == [4, 4, 4]
    assert data.manifest["passed_over"] == {"links in a circle": 1}


def test_a_link_to_the_top_of_an_archive_leads_back(tmp_path, tree):
    for name, target in (("self", "."), ("train/up", "..")):
        (tree / name).symlink_to(target)
    (tmp_path / "a.tar").write_bytes(tar_of(tree, sorted(tree.rglob("*"))))
    assert packed(tmp_path / "p", tmp_path / "a.tar").manifest["passed_over"] == {"links in a circle": 2}


@pytest.mark.parametrize("target", ["/data/dog", "../../dog", "gone", "dog"])
def test_a_class_folder_that_is_a_dead_link_is_no_missing_class(tmp_path, tree, target):
    (tree / "train" / "dog").symlink_to(target)
    (tmp_path / "a.tar").write_bytes(tar_of(tree, sorted(tree.rglob("*"))))
    message = "class folder train/dog holds no images; passed over: 1 links that lead nowhere"
    with pytest.raises(UserError, match=message):
        counted(tmp_path / "a.tar")


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_pipes_and_devices_are_passed_over_as_in_a_directory(tmp_path, tree, suffix):
    """They hold nothing, whatever they are called; nor does what leads to them."""
    path = archive_of(tree, tmp_path / f"a{suffix}")
    kinds = {"pipe": stat.S_IFIFO, "device": stat.S_IFCHR, "disk": stat.S_IFBLK, "link": stat.S_IFLNK}
    for place in ("train/ant", "train/.git"):
        for name, kind in kinds.items():
            add_special(path, f"{place}/{name}.png", kind, "pipe.png")
    data = packed(tmp_path / "p", path)
    assert np.bincount(data.labels["train"]).tolist() == [4, 4, 4]
    assert data.manifest["passed_over"] == {"pipes, sockets and devices": 4, ".git/": 1}


def add_special(path, name, kind, target):
    """Add something that is no file to an archive."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "a") as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            archive.writestr(info, target if kind == stat.S_IFLNK else b"")
        return
    types = {stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE}
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = types.get(kind, tarfile.SYMTYPE), target if kind == stat.S_IFLNK else ""
        archive.addfile(info)


def test_archives_within_archives_are_passed_over_by_name(tmp_path, tree):
    archive_of(tree, tree / "inner.zip")
    data = packed(tmp_path / "p", archive_of(tree, tmp_path / "a.tar"))
    assert np.bincount(data.labels["train"]).tolist() == [4, 4, 4]
    assert data.manifest["passed_over"] == {".zip": 1}
    outer = archive_of(tree, tmp_path / "b.tar", lambda name: name.endswith(".zip"))
    with pytest.raises(UserError, match=r"holds no images; .*\.zip"):
        counted(outer)


def test_links_of_a_zip_count_too(tmp_path, tree):
    path = archive_of(tree, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("train/bee/9.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../ant/1.png")
    assert counted(path) == [4, 5, 4]


def test_long_names_and_global_headers(tmp_path, picture):
    long = "x" * 180
    names = [f"train/{c}/{k}{long}.png" for c in "ab" for k in range(2)] + [f"test/{c}/{long}.png" for c in "ab"]
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(
            path, "w", format=form, pax_headers={"comment": "made by hand"} if number else None
        ) as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(picture)
                archive.addfile(info, io.BytesIO(picture))
        assert counted(path) == [2, 2]


def test_names_of_zips_from_other_systems(tmp_path, picture):
    """Windows tools may write backslashes, macOS UTF-8 without saying so."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train\\ant\\0.png", "train\\bée\\0.png", "test\\ant\\0.png", "test\\bée\\0.png", "test\\"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, picture)
    unmarked = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := unmarked.find(signature, at + 1)) >= 0:
            unmarked[at + flags + 1] &= ~8
    path.write_bytes(unmarked)
    listing = list_archives([path])
    assert find_layout(listing, None, 0).classes == ["ant", "bée"]
    assert not listing.passed_over(), "folders count as such"


def test_backslashes_that_may_be_half_of_a_letter_are_refused(tmp_path, picture):
    """Classes that begin with one letter of Shift-JIS would merge: its second byte is a backslash."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split, name in itertools.product(("train", "test"), ("XYa", "XYb")):
            archive.writestr(f"{split}/{name}/0.png", picture)
    path.write_bytes(path.read_bytes().replace(b"XY", "\u8868".encode("shift-jis")))
    with pytest.raises(UserError, match="does not tell in which encoding its names are"):
        list_archives([path])


@pytest.mark.parametrize("slash", ["/", "\\"])
def test_empty_class_folders_of_zips_are_seen(tmp_path, tree, slash):
    path = archive_of(tree, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = f"train{slash}dog{slash}"
        archive.writestr(info, b"")
    with pytest.raises(UserError, match="class folder train/dog holds no images"):
        counted(path)


def test_names_that_are_no_utf8_are_read_in_any_locale(tmp_path, picture):
    body = b"".join(
        field(member(f"{split}/bXe/0.png", picture), len(split) + 2, b"\xe9") + member(f"{split}/ant/0.png", picture)
        for split in ("train", "test")
    )
    (tmp_path / "a.tar").write_bytes(body + END)
    assert find_layout(list_archives([tmp_path / "a.tar"]), None, 0).classes == ["ant", "b\udce9e"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_zip_members_are_told(tmp_path, tree, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(tree.rglob("*.png")):
            archive.write(file, file.relative_to(tree))
    content = bytearray(path.read_bytes())
    assert counted(path) == [4, 4, 4]
    content[70:80] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip is damaged or cut short|is not a readable image"):
        packed(tmp_path / "p", path)


def edited(path, signature: bytes, offset: int, value: bytes):
    """Overwrite a field of the first record with a signature."""
    content = bytearray(path.read_bytes())
    at = content.find(signature) + offset
    content[at : at + len(value)] = value
    path.write_bytes(content)
    return path


CENTRAL, LOCAL = b"PK\1\2", b"PK\3\4"


@pytest.mark.parametrize(
    ("signature", "offset", "value", "message"),
    [
        (CENTRAL, 8, b"\1", r"is encrypted \(test/ant/0\.png\)"),
        (CENTRAL, 10, b"\x63", "damaged or cut short"),  # an unknown method
        (CENTRAL, 16, b"~~~~", "damaged or cut short: Bad CRC-32"),
        (CENTRAL, 24, struct.pack("<I", 2**31), "too many for a picture"),
        (CENTRAL, 42, struct.pack("<I", 2**31), "damaged or cut short"),
        (CENTRAL, 50 + len("test/ant/0.p"), b"f", "damaged or cut short"),  # no picture any more, by one record
        (LOCAL, 30 + len("test/ant/0.p"), b"f", "damaged or cut short"),
        (LOCAL, 0, b"XX", "damaged or cut short"),
        (b"PK\5\6", 12, struct.pack("<I", 7), "damaged or cut short"),
        (b"PK\5\6", 16, struct.pack("<I", 7), "damaged or cut short"),
    ],
)
def test_zip_records_that_cannot_be_believed(tmp_path, tree, signature, offset, value, message):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(tree.rglob("*.png")):
            archive.write(file, file.relative_to(tree))
    edited(path, signature, offset, value)
    with pytest.raises(UserError, match=message):
        packed(tmp_path / "p", path)


def test_zip_members_that_overlap(tmp_path, picture):
    """What bombs are made of: many records of one content."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/a/0.png", picture)
        archive.filelist.append(archive.filelist[0])
    with pytest.raises(UserError, match="overlaps what lies before it"):
        list_archives([path])


@pytest.mark.parametrize("cut", [100, 30, 1])
def test_zip_cut_short(tmp_path, tree, cut):
    path = archive_of(tree, tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"a\.zip is damaged or cut short"):
        list_archives([path])


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_unreadable_image_in_an_archive_is_named(tmp_path, tree, suffix):
    (tree / "train" / "bee" / "1.png").write_bytes(b"not an image")
    path = archive_of(tree, tmp_path / f"a{suffix}")
    with pytest.raises(UserError, match=rf"a{suffix}:train/bee/1\.png is not a readable image"):
        packed(tmp_path / "p", path)


def test_bombs_are_refused_before_they_are_read(tmp_path, tree, monkeypatch):
    """The real bounds are gigabytes; the sentence is the same."""
    monkeypatch.setattr(archives, "BOMB_BYTES", 1 << 16)
    monkeypatch.setattr(archives, "_PADDING", 1 << 16)
    body = tar_of(tree, sorted(tree.rglob("*.png")))[:-1024]
    zeros = bytes(1 << 24)
    for content in (member("zeros.bin", zeros) + body, member("train/ant/zeros.png", zeros) + body):
        (tmp_path / "a.tgz").write_bytes(gzip.compress(content + END, mtime=0))
        with pytest.raises(UserError, match=r"over 200 times as many: it is damaged or made to fill memory"):
            list_archives([tmp_path / "a.tgz"])
    (tmp_path / "a.tgz").write_bytes(gzip.compress(body + END + zeros, mtime=0))
    with pytest.raises(UserError, match="endless zeros after the end mark"):
        list_archives([tmp_path / "a.tgz"])
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.bin", zeros)
    with pytest.raises(UserError, match=r"over 200 times as many"):
        list_archives([tmp_path / "a.zip"])


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_members_too_large_for_a_picture(tmp_path, tree, suffix, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 1 << 12)
    (tree / "video.mp4").write_bytes(bytes(1 << 13))
    assert packed(tmp_path / "p", archive_of(tree, tmp_path / f"a{suffix}")).num_classes == 3
    (tree / "train" / "ant" / "large.png").write_bytes(bytes(1 << 13))
    with pytest.raises(UserError, match=r"large\.png has 8,192 bytes, too many for a picture"):
        packed(tmp_path / "p", archive_of(tree, tmp_path / f"a{suffix}"))


def test_an_archive_that_may_not_be_read(tmp_path, tree, monkeypatch):
    path = archive_of(tree, tmp_path / "a.tar")

    def failing(*_arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(path), "open", failing)
    with pytest.raises(UserError, match=r"a\.tar cannot be read: Input/output error"):
        list_archives([path])


def mutants(content: bytes, count: int, seed: str):
    """Yield damaged copies: flipped bits, overwritten and cut out stretches, cuts at the end, swapped blocks."""
    draw = random.Random(seed)
    for _ in range(count):
        data, at = bytearray(content), draw.randrange(len(content))
        match draw.randrange(6):
            case 0 | 1:
                data[at] ^= 1 << draw.randrange(8)
            case 2:
                data[at : at + draw.randrange(1, 20)] = draw.randbytes(draw.randrange(1, 20))
            case 3:
                del data[at:]
            case 4:
                del data[at : at + draw.choice([1, 100, 512])]
            case 5:
                data[at:at] = data[at : at + draw.choice([1, 100, 512])]
        yield bytes(data)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_archive_packs_right_or_is_refused(tmp_path, suffix):
    """What a plain tar's own sums cannot see, the sums within PNG files do."""
    tree = write_tree(tmp_path / "tree", classes=("ant", "bee"), count=2)
    path = archive_of(tree, tmp_path / f"a{suffix}")
    right = packed(tmp_path / "right", path).manifest["digests"]
    refused = 0
    for mutant in mutants(path.read_bytes(), 12, suffix):
        path.write_bytes(mutant)
        try:
            assert packed(tmp_path / "p", path).manifest["digests"] == right
        except UserError:
            refused += 1
    assert refused


def test_a_sum_is_checked_of_every_member(tmp_path, tree):
    """Also of those at the end, when nothing is left to be decoded."""
    content = bytearray(gzip.compress(tar_of(tree, sorted(tree.rglob("*.png"))), mtime=0))
    content[-8:-4] = struct.pack("<I", zlib.crc32(b"another content"))
    (tmp_path / "a.tgz").write_bytes(content)
    with pytest.raises(UserError, match="CRC check failed"):
        list_archives([tmp_path / "a.tgz"])

"""Finished teachers of the field: fetched, unpacked, and tried on the networks that they are of."""

import http.client
import logging
import lzma
import re
import shutil
import tarfile
import urllib.request
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, cast

import yaml

from kd.models.build import build_model
from kd.schema.architectures import SMALL_NETS
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError, one_of, printable, unknown
from kd.tools.files import atomic_path, atomic_write

log = logging.getLogger(__name__)

CIFAR100_TEACHERS = "https://github.com/megvii-research/mdistiller/releases/download/checkpoints/cifar_teachers.tar"
"""RepDistiller's teachers (Tian, Krishnan and Isola 2020), offered by mdistiller's authors: its own server is gone."""
NUM_CLASSES, IMAGE_SIZE = 100, 32
FILE_OF = re.compile(r"(?:.*/)?([^/]+)_vanilla/([^/]+\.pth)")
"""How both call the file of a network: 'resnet56_vanilla/ckpt_epoch_240.pth'."""
SILENCE = 60.0
"""Seconds without a byte after which fetching has failed."""

_BROKEN = (OSError, http.client.HTTPException, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)


def fetch_teachers(archive: str, names: Collection[str], folder: Path) -> dict[str, Path]:
    """Write the weights in an archive (an address or a path) below a folder, and return where each network's are.

    Without `names` those of all networks that it holds. Each file is whole and its network's, or is not written; beside
    them models.yaml has the entries of `models` that use them, and those fetched before, as they are. Errors: UserError
    for what cannot be fetched or read, for weights of another network, and for names that the archive does not have.
    """
    for name in names:
        if name not in SMALL_NETS:
            raise unknown("network", name, SMALL_NETS)
    found: dict[str, Path] = {}
    try:
        with _opened(archive) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                arch, file = _network(member.name)
                if member.isfile() and arch and (arch in names or not names):
                    found[arch] = _kept(tar, member, arch, folder / f"{arch}_vanilla" / file)
                if names and found.keys() >= set(names):
                    break
    except _BROKEN as error:
        raise UserError(
            f"cannot fetch {archive}: {error}; the archive may be downloaded by hand and named with --archive"
        ) from error
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{archive} has no weights of {one_of(missing)}: it has {', '.join(sorted(found)) or 'none'}")
    if not found:
        raise UserError(f"{archive} has no weights: none of its files is called NETWORK_vanilla/NAME.pth")
    atomic_write(folder / "models.yaml", _entries({**_lying_in(folder), **found}))
    return found


def _lying_in(folder: Path) -> dict[str, Path]:
    """Return the weights in a folder by network: one that models.yaml lost would be trained in place of used."""
    found = {path: _network(path.relative_to(folder).as_posix())[0] for path in folder.glob("*_vanilla/*.pth")}
    return {arch: path for path, arch in sorted(found.items()) if arch}


def _opened(archive: str) -> IO[bytes]:
    if re.match(r"https?://", archive):
        return cast(IO[bytes], urllib.request.urlopen(archive, timeout=SILENCE))
    return open(archive, "rb")


def _network(name: str) -> tuple[str, str]:
    """Return architecture and file's name of a member that holds weights, empty texts of any other."""
    named = FILE_OF.fullmatch(name)
    return (named[1], named[2]) if named and named[1] in SMALL_NETS else ("", "")


def _kept(tar: tarfile.TarFile, member: tarfile.TarInfo, arch: str, path: Path) -> Path:
    """Write a member where it belongs once its network has taken every tensor of it."""
    content = tar.extractfile(member)
    assert content is not None, "a plain file"
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            shutil.copyfileobj(content, file)
        try:
            model = build_model(ModelSettings(arch=arch, pretrained=str(temporary)), NUM_CLASSES, IMAGE_SIZE)
        except UserError as error:
            raise UserError(str(error).replace(str(temporary), printable(member.name))) from error
        if model.origin is None or model.origin.not_loaded:
            raise UserError(f"{printable(member.name)} is of other than {NUM_CLASSES} classes")
    log.info("%s: %s", arch, path)
    return path


def _entries(found: dict[str, Path]) -> str:
    """Return the YAML of `models` that gives each network its weights."""
    models = {arch: {"arch": arch, "pretrained": str(path), "train": False} for arch, path in found.items()}
    lines = yaml.safe_dump({"models": models}, default_flow_style=None, width=1000, allow_unicode=True)
    return f"# Teachers that are used as they were fetched.\n{lines}"

"""Files that `torch.save` wrote, the field's own training scripts' above all, read without running anything in them."""

import logging
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.tools.errors import UserError
from kd.tools.files import check_zip

log = logging.getLogger(__name__)

State = dict[str, Tensor]

AVERAGED = ("state_dict_ema", "model_ema", "model_ema_state_dict", "ema_state_dict", "ema_model", "ema")
"""Keys of weights averaged over training, as which such a network is published and measured: they come first."""
PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
_BOOKKEEPING = {"n_averaged"}  # torch.optim.swa_utils counts its averages among the weights

_ADVICE = "in the program that wrote it, save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
_REFUSED = re.compile(r"GLOBAL (\S+)")


class _Nothing:
    """What stands for a value that is no weight: its class is known to be harmless, and not even that is called."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _empty(*_: object) -> dict[Any, Any]:
    """Stand for the making of a dictionary with a default."""
    return {}


_HARMLESS = {
    "": ["argparse.Namespace", "types.SimpleNamespace", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"],
    "datetime.": ["datetime", "date", "time", "timedelta", "timezone"],
    "pathlib.": ["Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"],
    "pathlib._local.": ["Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"],
    "builtins.": ["int", "float", "str", "bool", "list", "dict", "tuple", "frozenset", "range", "slice"],
    "__builtin__.": ["int", "float", "str", "unicode", "long", "bool", "list", "dict", "tuple", "xrange"],
    "numpy.": ["dtype", "ndarray", "bool_", "float16", "float32", "float64", "int32", "int64", "uint8"],
    "numpy.core.multiarray.": ["scalar", "_reconstruct"],
    "numpy._core.multiarray.": ["scalar", "_reconstruct"],
    "numpy.core.numeric.": ["_frombuffer"],
    "numpy._core.numeric.": ["_frombuffer"],
    "torch.torch_version.": ["TorchVersion"],
}
"""Classes that training scripts keep beside the weights: arguments, scores, dates, paths."""

_KNOWN = [(_Nothing, prefix + name) for prefix, names in _HARMLESS.items() for name in names]
_KNOWN_DICTIONARIES = [(_empty, "collections.defaultdict")]


def read_torch_file(path: Path) -> tuple[State, str]:
    """Return the weights in a torch file and the key they stood under, '' for none; averaged weights come first.

    Errors: UserError for what is damaged, holds code or objects of unknown classes, or holds no weights.
    """
    check_zip(path, "fetch it again")
    _check_kind(path)
    try:
        # a file and not its path: torch takes paths that end in .safetensors for another kind
        with path.open("rb") as file, warnings.catch_warnings(), _harmless_classes():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything
        # torch's own text would advise to load the file unsafely
        raise UserError(f"{path} {_why_refused(error)}") from None
    if not zipfile.is_zipfile(path):
        log.warning("%s is in torch's format of before version 1.6, which holds no checksums of its numbers", path)
    return _weights_in(content, path)


def _harmless_classes() -> Any:
    return torch.serialization.safe_globals([*_KNOWN, *_KNOWN_DICTIONARIES])  # type: ignore[list-item]


def _check_kind(path: Path) -> None:
    """Refuse archives of other kinds by their names."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inner = [name.partition("/")[2] for name in archive.namelist()]
        if "constants.pkl" in inner:
            raise UserError(f"{path} is a TorchScript archive, which holds code, and is refused; {_ADVICE}")
    elif tarfile.is_tarfile(path):
        raise UserError(
            f"{path} is a tar archive and no file of weights: unpack it and give the .safetensors or torch file in it "
            "(torch's own tar format of before 2017 is not read: save it again with a newer torch)"
        )


def _why_refused(error: Exception) -> str:
    text = " ".join(str(error).split())
    if refused := _REFUSED.search(text):
        return (
            f"cannot be read as weights: it holds more than tensors, objects of {refused[1]}, and is refused, since "
            f"making them could run code that the file brings; {_ADVICE}"
        )
    if isinstance(error, pickle.UnpicklingError | EOFError) or not text:
        text = "it is damaged or holds more than tensors"
    return f"cannot be read as weights (.safetensors, or a torch file of tensors): {text}"


def _weights_in(content: object, path: Path) -> tuple[State, str]:
    for key, state in _candidates(content, ""):
        others = [other for other, _ in _candidates(content, "") if other != key]
        beside = f"; it also holds {', '.join(others)}" if others else ""
        averaged = " (averaged weights)" if key.split(".")[0] in AVERAGED else ""
        if key:
            log.info("%s: took '%s'%s%s", path, key, averaged, beside)
        return state, key
    kind = "" if isinstance(content, Mapping) else f", found {type(content).__name__}"
    raise UserError(
        f"{path} holds no state dict, neither plainly nor under one of the keys {', '.join((*PLAIN, *AVERAGED))}{kind}"
    )


def _candidates(content: object, key: str, depth: int = 3) -> list[tuple[str, State]]:
    """Return every state dict in a file's content with its key ('ema.state_dict'), averaged ones first."""
    if not isinstance(content, Mapping) or not content or depth == 0:
        return []
    named = {str(name): value for name, value in content.items() if name not in _BOOKKEEPING}
    if named and all(isinstance(value, Tensor) for value in named.values()):
        return [(key, named)]
    found = []
    for inner in (*AVERAGED, *PLAIN):
        found += _candidates(content.get(inner), f"{key}.{inner}" if key else inner, depth - 1)
    return found

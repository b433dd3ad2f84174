"""Read the pickles that image data sets are published as, without trusting them."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from kd.tools.errors import UserError

PLAIN_KINDS = "biufcSU"  # bool, integers, floats, complex, bytes, str: no Python objects, no records


class _PlainType:
    """Stands in for numpy.dtype while loading, so that no real dtype exists before it has been checked."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        self.code = _text(code)
        self.order = "="

    def __setstate__(self, state: tuple) -> None:
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("a record type")
        self.order = _text(state[1])

    def checked(self) -> np.dtype:
        """Return the array type if it is a plain one."""
        kind = np.dtype(self.code)
        if kind.kind not in PLAIN_KINDS:
            raise pickle.UnpicklingError(f"an array of {kind}")
        return kind.newbyteorder(self.order) if self.order in "<>" else kind


class _PlainArray(np.ndarray):
    """An array whose pickled state is checked before numpy sees it."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, kind, fortran, data = state
        if not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array without raw bytes")
        super().__setstate__((version, shape, kind.checked(), fortran, data))


class _ArrayMarker:
    """Stands in for the class numpy.ndarray, which a pickle only names and never calls."""


def _reconstruct(*_arguments: Any) -> np.ndarray:
    return np.ndarray.__new__(_PlainArray, (0,), np.uint8)


def _frombuffer(buffer: Any, kind: _PlainType, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(buffer, kind.checked()).reshape(shape, order=order)


def _scalar(kind: _PlainType, data: Any) -> np.generic:
    return np.frombuffer(data, kind.checked(), count=1)[0]


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding}")
    return text.encode("latin1")


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


_ALLOWED = {
    ("numpy", "ndarray"): _ArrayMarker,
    ("numpy", "dtype"): _PlainType,
    ("_codecs", "encode"): _latin1_bytes,  # how Python 3 writes bytes in protocols 0 to 2
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (bytearray, complex, frozenset, set)
    },
} | {
    (f"numpy.{core}.{module}", name): stand_in
    for core in ("core", "_core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="bytes")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class that a pickle names, if that class is harmless."""
        if (module, name) not in _ALLOWED:
            raise UserError(f"{self.path} refers to {module}.{name}, but only numpy arrays and plain values are read")
        return _ALLOWED[module, name]


def load_pickle(path: str | Path, content: bytes | None = None) -> Any:
    """Return what a pickle of numpy arrays and plain containers holds; its bytes may be given, then `path` names them.

    Byte strings of Python 2 stay `bytes`, except as keys of the outermost dictionary, which become `str`.
    Errors: UserError for a missing or damaged file and for any class or function beyond arrays and plain values.
    """
    path = Path(path)
    try:
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            loaded = _Unpickler(file, path).load()
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is damaged or holds more than numpy arrays and plain values: {error}") from error
    # A damaged stream makes the unpickler fail in almost any way, numpy's own checks included.
    except Exception as error:
        raise UserError(f"{path} cannot be read as a pickle: {type(error).__name__}: {error}") from error
    if isinstance(loaded, dict):
        return {_text(key): value for key, value in loaded.items()}
    return loaded

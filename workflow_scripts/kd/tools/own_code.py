"""A user's own Python file, named by its path: looked at without running it, or imported."""

import ast
import hashlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from kd.tools.errors import UserError

SUFFIX = ".py"


def is_own(module: str) -> bool:
    """Whether a module is named by its path, and not as Python names it."""
    return module.endswith(SUFFIX)


def defined_in(path: str | Path) -> list[str]:
    """Return the functions and classes that a file defines at its top, without running it.

    Errors: UserError for a file that is missing, is no text or no Python.
    """
    found = [node for node in parsed(path).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node.name for node in found]


def parsed(path: str | Path) -> ast.Module:
    """Return the syntax tree of a file; errors as in `defined_in`."""
    try:
        return ast.parse(Path(path).read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        raise UserError(f"{where} is no Python that can be read: {getattr(error, 'msg', error)}") from error


def module_at(path: str | Path) -> ModuleType:
    """Return the module of a file, run once in a process, whatever else has its name.

    What the file imports is the library, or installed: its own folder is not searched, for nobody would notice when a
    file beside it changes. Errors: UserError where it does not run.
    """
    return _module(Path(path).resolve())


@cache
def _module(path: Path) -> ModuleType:
    parsed(path)
    name = f"own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a file of Python has a loader"
    assert spec.loader is not None, "a file of Python has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {reason}") from error
    return module

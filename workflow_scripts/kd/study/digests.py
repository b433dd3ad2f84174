"""Which sources a job runs, and a digest of what they mean: comments, layout and docstrings do not count."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2]

SILENT = ("kd.tools", "kd.schema", "kd.study", "kd.record", "kd.console")
"""Packages that cannot change a result: schema and study reach a job through its settings, others write and talk."""


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def text_digest(text: str) -> str:
    """Return 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_path(module: str) -> Path | None:
    """Return the file of a module of this project ('kd.methods.crd', or a script's name), None for any other."""
    base = SCRIPTS.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def imports_of(module: str) -> frozenset[str]:
    """Return the project's modules that one module imports, wherever in the file."""
    return frozenset(name for name in _parsed(module)[0] if source_path(name) is not None)


@cache
def closure(modules: frozenset[str]) -> tuple[str, ...]:
    """Return the modules and all that they import, directly or not, sorted, without what computes nothing."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen and not module.startswith(SILENT):
            seen.add(module)
            waiting.extend(imports_of(module) - seen)
    return tuple(sorted(seen))


def module_digest(module: str) -> str:
    """Return the digest of one module's syntax tree without docstrings."""
    return _parsed(module)[1]


@cache
def _parsed(module: str) -> tuple[frozenset[str], str]:
    """Return all names that a module imports and its digest: parsed once, for this is most of a dry run's start."""
    path = source_path(module)
    assert path is not None, f"no source for {module}"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = _without_strings(node.body)
    return frozenset(found), text_digest(ast.dump(tree) + _native(path))


def _native(path: Path) -> str:
    """Return the source in C that a module builds: the file of its name."""
    native = path.with_suffix(".c")
    return native.read_text(encoding="utf-8") if native.is_file() else ""


def code_digest(modules: Iterable[str]) -> str:
    """Return the digest of everything that the given modules run, they included."""
    return _code_digest(frozenset(modules))


@cache
def _code_digest(modules: frozenset[str]) -> str:
    return text_digest(canonical({module: module_digest(module) for module in closure(modules)}))


def _without_strings(body: list[ast.stmt]) -> list[ast.stmt]:
    """Drop bare strings: docstrings, and the field descriptions below settings."""
    return [
        statement
        for statement in body
        if not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        )
    ]

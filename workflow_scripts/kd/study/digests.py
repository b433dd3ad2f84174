"""Which sources a job runs, and a digest of what they compute.

What only people see counts for nothing: comments, layout, docstrings, log lines, help texts, the texts of errors; nor
does what only a type checker reads.
"""

import ast
import builtins
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from kd.tools.own_code import is_own

SCRIPTS = Path(__file__).resolve().parents[2]

SILENT = ("kd.tools", "kd.schema", "kd.study", "kd.record", "kd.console")
"""Packages that cannot change a result: schema and study reach a job through its settings, others write and talk."""

LOGGERS = {"log", "logging"}
OWN_ERRORS = {"UserError", "DivergenceError"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def text_digest(text: str) -> str:
    """Return 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_path(module: str) -> Path | None:
    """Return the file of one of the project's modules ('kd.methods.crd', a script's name, a path), None for another."""
    if is_own(module):
        return Path(module)
    base = SCRIPTS.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def imports_of(module: str) -> frozenset[str]:
    """Return the project's modules that one module imports, wherever in the file; not the packages that they are in."""
    found = {name: path for name in _parsed(module)[0] if (path := source_path(name)) is not None}
    return frozenset(name for name, path in found.items() if path.stat().st_size or path.name != "__init__.py")


@cache
def closure(modules: frozenset[str]) -> tuple[str, ...]:
    """Return the modules and all that they import, directly or not, sorted, without what computes nothing."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen and not is_silent(module):
            seen.add(module)
            waiting.extend(imports_of(module) - seen)
    return tuple(sorted(seen))


def is_silent(module: str) -> bool:
    """Whether a module belongs to a package that computes nothing."""
    return any(module == package or module.startswith(f"{package}.") for package in SILENT)


def module_digest(module: str) -> str:
    """Return the digest of what one module computes, its source in C included."""
    return _parsed(module)[1]


@cache
def _parsed(module: str) -> tuple[frozenset[str], str]:
    """Return all names that a module imports and its digest."""
    path = source_path(module)
    assert path is not None, f"no source for {module}"
    imports, meaning = meaning_of(path.read_text(encoding="utf-8"))
    return imports, text_digest(meaning + _native(path))


@cache
def meaning_of(source: str) -> tuple[frozenset[str], str]:
    """Return the names that a source imports, and its syntax tree without all that computes nothing.

    It is parsed once a process, for this is most of a dry run's start.
    """
    tree = _Computing().visit(ast.parse(source))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found), ast.dump(tree)


class _Computing(ast.NodeTransformer):
    """Takes out of a syntax tree what decides no result."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop bare strings (docstrings, descriptions below fields) and log lines."""
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return None if _logs(node.value) else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Drop the making of a logger."""
        made = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "logging.getLogger"
        return None if made else self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        """Drop the import of `logging`."""
        return None if [alias.name for alias in node.names] == ["logging"] else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        """Drop what only a type checker sees, and a condition under which nothing is done but to log."""
        if _name_of(node.test) == "TYPE_CHECKING":
            return [kept for one in node.orelse for kept in _as_list(self.visit(one))]
        self.generic_visit(node)
        # a test that calls something may change what follows
        calls = any(isinstance(part, ast.Call | ast.NamedExpr | ast.Await) for part in ast.walk(node.test))
        return node if node.body or node.orelse or calls else None

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Drop what a broken assertion says."""
        node.msg = None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Empty the texts of what is raised, also where a helper makes the error of them."""
        self.generic_visit(node)
        if isinstance(node.exc, ast.Call):
            node.exc.args = [_Wordless().visit(argument) for argument in node.exc.args]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Empty the texts of errors, wherever they are made, and drop the help of arguments."""
        self.generic_visit(node)
        name = _name_of(node.func)
        if name in OWN_ERRORS or _is_error(getattr(builtins, name, None)):
            node.args = [_Wordless().visit(argument) for argument in node.args]
        elif name == "add_argument":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "help"]
        return node


class _Wordless(ast.NodeTransformer):
    """Empties every text of an expression."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Empty a plain text."""
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Empty a text with values in it: which ones it tells is its wording."""
        return ast.Constant("")


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _logs(call: ast.expr) -> bool:
    """Whether an expression is a log line, such as `log.info("...", value)`."""
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS):
        return False
    return isinstance(call.func.value, ast.Name) and call.func.value.id in LOGGERS


def _name_of(node: ast.expr) -> str:
    """Return the last part of a dotted name; empty of any other expression."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _as_list(found: Any) -> list[ast.stmt]:
    """Return what a visit gave: nothing, a statement or several."""
    return found if isinstance(found, list) else [] if found is None else [found]


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


def forget() -> None:
    """Read sources anew, which a process does once otherwise."""
    for remembered in (imports_of, closure, _parsed, _code_digest):
        remembered.cache_clear()

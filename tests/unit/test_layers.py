"""The house rules that code can check: imports point downward, names resolve by importlib, nothing heavy on the way."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from kd.schema.cards import load_cards
from kd.study import digests

KD = Path(__file__).parents[2] / "workflow_scripts" / "kd"
SETTINGS = {"tools", "formats", "schema", "study"}
MAY_IMPORT = {
    "tools": set(),
    "formats": {"tools"},
    "schema": {"tools", "formats"},
    "study": SETTINGS - {"study"},
    "record": SETTINGS,
    "data": SETTINGS,
    "models": SETTINGS,
    "methods": SETTINGS | {"models", "data"},
    "asib": SETTINGS | {"models", "data", "methods"},
    "engine": SETTINGS | {"models", "data", "methods", "record"},
    "continual": SETTINGS | {"models", "data", "methods", "record", "engine"},
    "analysis": SETTINGS,
    "reporting": SETTINGS | {"analysis"},
    "console": SETTINGS | {"engine"},
    "speed": SETTINGS | {"data", "models", "methods", "record", "engine", "analysis", "reporting"},
}
FILES = sorted(path.relative_to(KD) for path in KD.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((KD / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_downward(path):
    if len(path.parts) == 1:
        return
    layer = path.parts[0]
    layers = {name.split(".")[1] for name in imported(path) if name.startswith("kd.")}
    assert layers <= MAY_IMPORT[layer] | {layer}, f"{path} imports {layers - MAY_IMPORT[layer] - {layer}}"


@pytest.mark.parametrize("package", ["methods", "models"])
def test_packages_resolved_by_name_stay_empty(package):
    assert (KD / package / "__init__.py").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in SETTINGS], ids=str)
def test_the_specification_never_imports_torch(path):
    assert not {name.split(".")[0] for name in imported(path)} & {"torch", "torchvision", "timm"}


def test_the_loop_and_its_parts_know_no_method_by_name():
    """A method's name stands in its own card; methods and ASIB share what they share through modules."""
    for path in FILES:
        if path.parts[0] in {"engine", "models", "data", "record"}:
            strings = {
                node.value
                for node in ast.walk(ast.parse((KD / path).read_text(encoding="utf-8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            assert not strings & set(load_cards()), f"{path} names {strings & set(load_cards())}"


def test_no_module_imports_itself_by_a_detour():
    """Depth first, by the imports that digests follow, and those for type checkers with them."""
    names = {".".join(("kd", *path.with_suffix("").parts)).removesuffix(".__init__"): path for path in FILES}
    # a package that names its parts names itself
    imports = {name: sorted(imported(path) & set(names) - {"kd", name}) for name, path in names.items()}
    imports = {name: [other for other in found if not is_empty(names[other])] for name, found in imports.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in imports[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in imports:
        visit(name, ())


def is_empty(path: Path) -> bool:
    return (KD / path).stat().st_size == 0


def test_only_jobs_and_what_stands_above_them_import_jobs():
    """kd.engine.jobs is the upper floor of the engine: below it nobody knows which kinds of jobs there are."""
    for path in FILES:
        if path.parts[0] == "engine" and path.parts[1] != "jobs":
            found = {name for name in imported(path) if name.startswith("kd.engine.jobs")}
            assert not found, f"{path} imports {found}"


JOBS_SHARE = {"files", "workbench", "trainings", "room", "shelf"}
"""Modules of kd.engine.jobs that are no kind of job."""


def test_no_kind_of_job_imports_another():
    kinds = {path.stem for path in FILES if path.parts[:2] == ("engine", "jobs")} - JOBS_SHARE - {"__init__"}
    for path, kind in itertools.product(FILES, kinds):
        if path.parts[:2] == ("engine", "jobs") and path.stem != kind:
            assert f"kd.engine.jobs.{kind}" not in imported(path), f"{path} imports {kind}"


@pytest.mark.parametrize(
    ("job", "most"),
    [
        (("train_student", "train_students", "kd.methods.kd"), 48),
        (("train_teacher", "kd.methods.ce"), 43),
        (("evaluate",), 20),
        (("evaluate_single",), 20),
        (("teacher_outputs",), 17),
        (("tune",), 22),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_a_jobs_digest_covers_few_modules(job, most):
    """With one network; what settings ask for beside that is counted where it is asked for (kd.study.options)."""
    modules = digests.closure(frozenset({*job, "kd.models.resnet_cifar"}))
    found = [name for name in modules if name.startswith("kd.")]
    assert len(found) <= most, found


def test_an_evaluation_does_without_training():
    modules = set(digests.closure(frozenset({"evaluate", "kd.models.resnet_cifar"})))
    assert not modules & {"kd.engine.training", "kd.engine.optim", "kd.engine.team", "kd.methods.contract"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("kd.study.plan", {"torch", "pandas", "matplotlib", "timm"}),
        ("kd.console.training_script", {"torch", "pandas", "matplotlib", "timm"}),
        ("kd.analysis.collect", {"torch", "pandas", "numpy", "matplotlib"}),
        ("kd.analysis.chain", {"torch", "pandas", "numpy"}),
        ("kd.analysis.compared", {"torch", "matplotlib", "scipy.stats"}),
        ("kd.reporting.tables", {"torch", "matplotlib", "timm"}),
        ("kd.engine.jobs.student", {"torchvision", "timm", "pandas", "matplotlib", "sklearn", "scipy"}),
    ],
)
def test_no_job_imports_what_it_does_not_use(module, absent):
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {absent!r}))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=KD.parent,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=True,
    ).stdout.strip()
    assert found == "[]"


def test_csv_is_written_in_one_place():
    writes = {"csv.writer", "csv.DictWriter", "to_csv"}
    found = [path for path in FILES if any(name in (KD / path).read_text(encoding="utf-8") for name in writes)]
    assert [path.as_posix() for path in found] == ["tools/csv_files.py"]

"""The house rules that code can check: imports point downward, names resolve by importlib, nothing heavy on the way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("package", ["engine", "methods", "asib", "models", "data"])
def test_the_loop_and_its_parts_know_no_method_by_name(package):
    cards = {path.stem for path in (KD.parents[1] / "config" / "methods").glob("*.yaml")}
    for path in FILES:
        if path.parts[0] in {"engine", "models", "data"} and package == path.parts[0]:
            strings = {
                node.value
                for node in ast.walk(ast.parse((KD / path).read_text(encoding="utf-8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            assert not strings & cards, f"{path} names {strings & cards}"


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

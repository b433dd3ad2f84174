"""The house is in order: style, types, Snakemake's own lint, and every experiment file plans its jobs."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dry_run import snakemake_without_jobs

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent
EXPERIMENTS = sorted((REPOSITORY / "config" / "experiments").glob("*.yaml"))

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "snakefmt": ["snakefmt", "--check", "Snakefile", "rules"],
    "snakemake lint": ["snakemake", "--lint"],
    "mypy": ["mypy"],
}


def run(*command: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    path = [str(TOOLS / command[0]), *command[1:]]
    return subprocess.run(path, cwd=cwd, capture_output=True, text=True, errors="backslashreplace", check=False)


@pytest.mark.parametrize("command", CHECKS.values(), ids=CHECKS.keys())
def test_checks_pass(command):
    done = run(*command)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


OPEN_BYTES = {"Image", "archive", "bz2", "gzip", "lzma", "os", "tarfile", "zipfile"}


def without_encoding(source: str) -> list[str]:
    """Calls that read or write text in whatever encoding the machine's locale has."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func).rpartition(".")[2]
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if isinstance(owner, ast.Name) and owner.id in OPEN_BYTES:
            continue
        modes = [*call.args, *([given["mode"]] if "mode" in given else [])]
        binary = any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes[-1:])
        binary |= "buffering" in given  # which nothing but bytes can be without
        opens = name == "open" and not binary
        if (opens or name in {"read_text", "write_text"}) and "encoding" not in given:
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
        if "text" in given and not {"encoding", "errors"} & given.keys() and "subprocess" in ast.unparse(call.func):
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def test_text_files_name_their_encoding():
    paths = [REPOSITORY / "envs" / "task.py", *(REPOSITORY / "workflow_scripts").rglob("*.py")]
    paths += (REPOSITORY / "tests").rglob("*.py")
    found = {str(path.relative_to(REPOSITORY)): without_encoding(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_plans_its_jobs(path, tmp_path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["seeds"] = content["seeds"][:1]  # the others' jobs are the same
    arguments = ["-n", "--quiet", "all", "--directory", str(tmp_path / "work")]
    shutil.copytree(REPOSITORY / "config" / "own", tmp_path / "work" / "config" / "own")  # named from where one works
    for dataset in content["datasets"].values():
        if "root" in dataset and not dataset.get("download"):  # the user's own folder
            dataset["root"] = str(tmp_path / "images")
            (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / path.name).write_text(yaml.safe_dump(content), encoding="utf-8")
    done = snakemake_without_jobs(REPOSITORY, *arguments, "--configfile", str(tmp_path / path.name))
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_file_names_a_place_beside_the_repository():
    """What is committed runs wherever it is cloned to; only CI looks there for more to test with."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False).stdout
    files = [REPOSITORY / name for name in listed.decode().split("\0") if name and not name.startswith(".ci/")]
    beside = b"../" + b"shared"
    assert [file.name for file in files if file.is_file() and beside in file.read_bytes()] == []


def test_the_gpu_profile_asks_one_device_a_training_job(tmp_path):
    profile = str(REPOSITORY / "config" / "profiles" / "gpu")
    done = snakemake_without_jobs(REPOSITORY, "-n", "--profile", profile, "--directory", str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:]
    blocks = re.split(r"^(?:local)?rule ", done.stdout, flags=re.MULTILINE)[1:]
    training = [block for block in blocks if block.startswith(("train_", "asib_teacher", "asib_student", "pretrain"))]
    assert training
    assert all("gpu=1" in block for block in training)
    assert not any("gpu=1" in block for block in blocks if block.startswith(("collect", "tables", "prepare_data")))


def test_a_second_configuration_file_changes_the_first_key_by_key(tmp_path):
    base = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text(encoding="utf-8"))["recipe"]
    assert (base["epochs"], base["augmentation"]["flip"]) == (8, False)
    changes = {"recipe": {"epochs": 3, "augmentation": {"flip": True}}}
    (tmp_path / "changes.yaml").write_text(yaml.safe_dump(changes), encoding="utf-8")
    files = [str(REPOSITORY / "config" / "config.yaml"), str(tmp_path / "changes.yaml")]
    directory = str(tmp_path / "work")
    done = snakemake_without_jobs(REPOSITORY, "-n", "-p", "--directory", directory, "--configfile", *files)
    assert done.returncode == 0, done.stdout[-3000:]
    # commands name the file of their settings by its digest: the settings are those of one file with both in it
    whole = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text(encoding="utf-8"))
    whole["recipe"]["epochs"], whole["recipe"]["augmentation"]["flip"] = 3, True
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    asked = ("-n", "-p", "--directory", directory, "--configfile", str(tmp_path / "whole.yaml"))
    of_one_file = snakemake_without_jobs(REPOSITORY, *asked)
    named = [
        re.findall(r"""train_student\.py" --settings (\S+)""", output) for output in (done.stdout, of_one_file.stdout)
    ]
    assert named[0]
    assert sorted(named[0]) == sorted(named[1])
    alone = snakemake_without_jobs(REPOSITORY, *asked[:-1], files[0])
    assert set(named[0]).isdisjoint(re.findall(r"""train_student\.py" --settings (\S+)""", alone.stdout))


def test_a_wrong_configuration_stops_before_any_job(tmp_path):
    content = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text(encoding="utf-8"))
    content["recipe"]["epoch"] = content["recipe"].pop("epochs")
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    done = run("snakemake", "--cores", "1", "--configfile", str(tmp_path / "wrong.yaml"))
    assert done.returncode != 0
    assert "unknown key in recipe 'epoch': did you mean 'epochs'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_readme_holds_the_commands_that_ci_runs():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Quick start")[1].split("\n## ")[0]
    commands = [line for line in section.splitlines() if line.startswith("python3 ")]
    assert commands == ["python3 envs/task.py quickstart", "python3 envs/task.py test"]
    assert commands[1] in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")

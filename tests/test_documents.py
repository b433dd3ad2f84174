"""What the documents say can be done: every command is tried, every link leads somewhere, every snippet is valid.

A command of Snakemake is planned by Snakemake itself, in a folder that has what a user would have put there. What needs
an installation, a GPU or hours is tried in the part that does not; UNTRIED says what is left, and why.
"""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from dry_run import snakemake_without_jobs

from kd.schema.cards import Card
from kd.study.experiment import load_experiment
from kd.study.plan import Plan

REPOSITORY = Path(__file__).resolve().parents[1]
SKIPPED = {"CHANGELOG.md", "results/reference/benchmark/report.md"}
"""What was, and what a machine measured: commands of their time."""
PLACES = ("*.md", "config/**/*.md", "workflow_scripts/*.md", "results/reference/*.md", "results/reference/*/*.md")
DOCUMENTS = sorted(
    path
    for place in PLACES
    for path in REPOSITORY.glob(place)
    if path.relative_to(REPOSITORY).as_posix() not in SKIPPED
)
PROGRAMS = ("python3 ", "snakemake ", "make ", "source ", "mkdir ", "printf ")

UNTRIED = {
    "source .venv/bin/activate": "the environment that runs this test",
    "python3 envs/task.py quickstart": "run by tests/workflow/test_quickstart.py",
    "python3 envs/task.py test": "this very suite",
    "python3 envs/task.py export results/quickstart/digits/resnet14--resnet8/kd/seed0": (
        "reads a finished run: tests/workflow/test_quickstart.py"
    ),
    "python3 envs/task.py report quickstart": "reads finished runs: Snakemake has no dry run of it",
}


def name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> Iterator[str]:
    """Yield the fenced blocks of one language."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text(path), re.MULTILINE | re.DOTALL):
        if found[1] == language:
            yield found[2]


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text(path), flags=re.MULTILINE | re.DOTALL)


def scripts() -> dict[str, Path]:
    """Return what a reader may type: shell blocks as a whole, and commands within lines, each with its document."""
    found: dict[str, Path] = {}
    for path in DOCUMENTS:
        for block in blocks(path, "bash"):
            found.setdefault(block.strip(), path)
        for inline in re.findall(r"`([^`\n]+)`", prose(path)):
            if inline.startswith(PROGRAMS) and not re.search(r"\b[A-Z]{4,}\b", inline.split("=")[0]):
                found.setdefault(inline, path)
    return found


COUNTED = {
    "python3 envs/task.py exec snakemake --cores 2 -n --configfile config/experiments/ckd.yaml": {
        "train_student": 576,
        "teacher_outputs": 72,
        "train_teacher": 9,
    },
    "python3 envs/task.py exec snakemake --cores 2 -n --config 'co_train=[kd, hint, crd]'": {
        "train_students": 2,
        "train_student": 16 - 6,
    },
    "python3 envs/task.py exec snakemake --cores 2 -n --config 'co_train=[kd, hint, crd]' students_per_job=6"
    " teacher_seed=0": {"train_students": 1, "train_student": 16 - 6},
}
"""Jobs that a document says a command lists."""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A user's folder, with class folders for images of their own."""
    folder = tmp_path_factory.mktemp("documents")
    for split in ("train", "test"):
        for label in ("cats", "dogs"):
            (folder / "data" / "my_images" / split / label).mkdir(parents=True)
    (folder / "home").mkdir()
    shutil.copytree(
        REPOSITORY / "config" / "own", folder / "config" / "own", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


@pytest.fixture
def environment(world, monkeypatch) -> dict[str, str]:
    monkeypatch.setenv("HOME", str(world / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(world / "home" / ".config"))
    return dict(os.environ)


@pytest.mark.parametrize("script", scripts(), ids=lambda script: re.sub(r"\W+", "_", script)[-38:])
def test_a_command_can_be_run(script, world, environment):
    for line in script.replace("\\\n", " ").splitlines():
        for command in line.split(" && "):
            attempt(command.strip(), world, environment)


def attempt(command: str, world: Path, environment: dict[str, str]) -> None:
    """Try a command as far as it can be tried here; one that cannot is an AssertionError."""
    words = shlex.split(command, comments=True)
    plain = shlex.join(words)
    if not words or plain in UNTRIED:
        return
    if words[:2] == ["python3", "envs/task.py"]:
        task(words[2], words[3:], world, environment)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}\b.*:|\b{words[1]}\b.*:$", text(REPOSITORY / "Makefile"), re.MULTILINE)
    elif words[0] == "snakemake":
        snakemake(words[1:], world, environment)
    else:
        assert words[0] in {"mkdir", "ln", "printf"}, f"no way is known to try: {command}"
        environment = {**environment, "PWD": str(REPOSITORY)}
        subprocess.run(["bash", "-c", f"PWD={REPOSITORY}; {command}"], cwd=world, env=environment, check=True)


def task(task_name: str, arguments: list[str], world: Path, environment: dict[str, str]) -> None:
    """Try a task: Snakemake's are planned, others must exist and take their options."""
    tasks = task_module().TASKS
    assert task_name in tasks
    if task_name == "exec" and arguments:
        assert arguments[0] == "snakemake", f"no way is known to try exec {arguments[0]}"
        said = snakemake(arguments[1:], world, environment)
        jobs = COUNTED.get(shlex.join(["python3", "envs/task.py", "exec", *arguments]), {})
        assert {rule: int(re.search(rf"^{rule} +(\d+)$", said, re.MULTILINE)[1]) for rule in jobs} == jobs
    elif task_name == "bench":
        takes("benchmark", ["--out", "x.json", *arguments])
    elif task_name == "fetch-teachers":
        takes("fetch_teachers", arguments)  # tests/unit/models/test_fetched.py fetches some
    elif task_name == "lease":
        takes("lease", arguments)  # tests/unit/speed/test_lease.py runs one
    elif task_name == "slurm-profile":
        assert tasks[task_name]([]) == 0
        assert (world / "home" / ".config" / "snakemake" / "slurm" / "profile.yaml").is_file()
    elif task_name == "check-method":
        assert (REPOSITORY / arguments[0]).is_file()  # tests/unit/schema/test_own_cards.py runs it
    elif task_name == "test":
        for argument in arguments:
            assert (REPOSITORY / argument).exists(), f"{argument} is no file or folder of tests"
    else:
        assert task_name in {"docs", "exec"}, f"no way is known to try {task_name}"


def task_module():
    spec = importlib.util.spec_from_file_location("task", REPOSITORY / "envs" / "task.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def snakemake(arguments: list[str], world: Path, environment: dict[str, str]) -> str:
    """Plan the jobs of a command, in the user's folder, with this repository's files; return what Snakemake says."""
    if "slurm" in arguments:  # the profile that the step before has linked to this name
        task_module().slurm_profile([])
    here = [str(REPOSITORY / word) if is_here(word) else word for word in arguments]
    command = [*here, "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(world), "-q", "rules"]
    command += [] if "-n" in arguments or "--unlock" in arguments else ["-n"]
    done = snakemake_without_jobs(world, *command, environment=environment)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def is_here(word: str) -> bool:
    return "/" in word and not word.startswith("-") and (REPOSITORY / word).exists()


def takes(script: str, arguments: list[str]) -> None:
    """Let a script read its options; nothing is run."""
    command = [sys.executable, f"workflow_scripts/{script}.py", *arguments, "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", check=True)
    told = set(re.findall(r"--[a-z-]+", done.stdout))
    assert {word for word in arguments if word.startswith("--")} <= told


def test_what_is_told_here_of_a_command_is_of_one_that_stands_somewhere():
    written = {line for script in scripts() for line in script.splitlines()}
    assert {*UNTRIED, *COUNTED} <= written


# --- links, snippets, lists --------------------------------------------------------------------------------------


def headings(path: Path) -> set[str]:
    """Return the anchors of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    """Return the targets of a document's links within the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
    for target in links(path):
        file, _, anchor = target.partition("#")
        led = (path.parent / file).resolve() if file else path
        assert led.exists(), f"{name(path)}: {target} leads nowhere"
        assert REPOSITORY in [led, *led.parents], f"{name(path)}: {target} leads out of the repository"
        assert not anchor or anchor in headings(led), f"{name(path)}: {target} names no heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_snippets_of_experiment_files_are_valid(path):
    schema = json.loads(text(REPOSITORY / "config" / "experiment.schema.json"))
    part = jsonschema.Draft7Validator({**schema, "required": []})
    for block in blocks(path, "yaml"):
        content = yaml.safe_load(block)
        if content and "module" in content:
            Card.model_validate(content)
            continue
        validator = jsonschema.Draft7Validator(schema) if "experiment" in (content or {}) else part
        assert not [error.message for error in validator.iter_errors(content or {})], block


def test_the_list_of_experiments_is_whole_and_counts_their_runs(world, monkeypatch):
    monkeypatch.chdir(world)
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(.*?\| (\d+) \|", text(REPOSITORY / "config/experiments/README.md"), re.MULTILINE
    )
    listed = {experiment: int(runs) for experiment, runs in rows}
    counted = {}
    for path in (REPOSITORY / "config" / "experiments").glob("*.yaml"):
        plan = Plan(load_experiment(path))
        counted[path.stem] = len(plan.runs) + len(plan.continual.runs)
    assert listed == counted


def test_the_list_of_results_is_whole():
    folder = REPOSITORY / "results" / "reference"
    listed = re.findall(r"^\| \[(\w+)\]\(\1/README.md\)", text(folder / "README.md"), re.MULTILINE)
    assert sorted(listed) == sorted(path.parent.name for path in folder.glob("*/README.md"))


def test_the_map_names_every_package_and_task():
    page = text(REPOSITORY / "workflow_scripts" / "README.md")
    packages = {path.parent.name for path in (REPOSITORY / "workflow_scripts" / "kd").glob("*/__init__.py")}
    rows = re.findall(r"^\| (.+?) \|", page, re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"`([\w-]+)[^`]*`", row)}
    assert packages <= named
    assert set(task_module().TASKS) <= named


def code_lines(source: str) -> int:
    """Return how many lines are neither blank nor comment nor docstring."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return len([line for line in ast.unparse(tree).splitlines() if line])


def test_the_worked_example_of_a_method_is_the_one_that_runs_and_short():
    page, own = REPOSITORY / "workflow_scripts" / "README.md", REPOSITORY / "config" / "own"
    (module,) = blocks(page, "python")
    assert module == text(own / "js_kd.py")
    assert code_lines(module) <= 15
    (card,) = blocks(page, "yaml")
    assert card == text(own / "js_kd.yaml")


def test_the_readme_is_short():
    assert len(text(REPOSITORY / "README.md")) < 6500

#!/usr/bin/env python3
"""Run a task of this repository in its own pinned environment; needs Python 3.11 and a package registry, nothing else.

The environment is the folder .venv beside envs/. It is made when it is missing, and brought in line with the pins
whenever the requirement files have changed since.
"""

import argparse
import ast
import getpass
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "pins.sha256"
GUARD = ROOT / "envs" / "plain_configuration.py"
PINS = (ROOT / "envs" / "requirements.txt", ROOT / "envs" / "requirements-dev.txt")


class TaskError(Exception):
    """A reason, in one sentence, why a task cannot run here."""


# --- the environment ---------------------------------------------------------------------------------------------


def tool(name: str) -> str:
    """Path of a program of the environment."""
    return str(VENV / ("Scripts" if os.name == "nt" else "bin") / name)


def digest_of_pins() -> str:
    """What the environment is stamped with: the pins, the guard, and the Python they were installed for."""
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode())
    for path in (*PINS, GUARD):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_python() -> None:
    """Refuse a Python that cannot hold the environment, before anything is written."""
    if sys.version_info < (3, 11):  # noqa: UP036 (this file is what meets an older Python first)
        found = ".".join(map(str, sys.version_info[:3]))
        raise TaskError(f"this is Python {found} ({sys.executable}), but Python 3.11 or newer is needed.")
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise TaskError(
            f"this Python ({sys.executable}) has no module {' and '.join(missing)}, which makes the environment; "
            f"on Debian and Ubuntu the package python3-venv brings it."
        )


def surroundings() -> dict[str, str]:
    """This process's environment: UTF-8 whatever the locale is; a name and caches where the user has none."""
    found = {"PYTHONUTF8": "1", **os.environ}
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user may be a mere number; Snakemake and torch ask for a name
        found["USER"] = f"user{os.getuid()}"
    if not os.access(Path("~").expanduser(), os.W_OK):  # nor need there be a home
        found.setdefault("XDG_CACHE_HOME", str(VENV / "cache"))
        found.setdefault("MPLCONFIGDIR", str(VENV / "cache" / "matplotlib"))
    return found


def registry_for_uv() -> dict[str, str]:
    """uv's setting for the index that pip is configured with, which uv by itself does not read."""
    if "UV_DEFAULT_INDEX" in os.environ or "UV_INDEX_URL" in os.environ:
        return {}
    listing = subprocess.run(
        [tool("python"), "-m", "pip", "config", "list"], capture_output=True, text=True, errors="replace", check=False
    )
    for line in listing.stdout.splitlines():
        key, _, value = line.partition("=")
        if key.endswith(".index-url"):
            return {"UV_DEFAULT_INDEX": ast.literal_eval(value)}
    return {}


def pinned(name: str) -> str:
    """The line `name==version` of the pins."""
    lines = [
        line.split()[0]
        for path in PINS
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"{name}==")
    ]
    if not lines:
        raise TaskError(f"envs/requirements-dev.txt pins no {name}, which installs the environment.")
    return lines[0]


def install_pins() -> int:
    """Install the pins by uv, and by pip where uv cannot be had or cannot reach the registry."""
    requirements = [argument for path in PINS for argument in ("-r", str(path))]
    pip = [tool("python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if subprocess.call([*pip, pinned("uv")]) == 0:
        files = [str(path) for path in PINS]
        # Compiled bytecode: without it the first start of every library costs two to three times as long.
        sync = [tool("uv"), "pip", "sync", "--quiet", "--compile-bytecode", "--python", tool("python"), *files]
        if subprocess.call(sync, env={**surroundings(), **registry_for_uv()}) == 0:
            return 0
    print("uv could not install the pins; pip tries.", file=sys.stderr)
    return subprocess.call([*pip, "--compile", *requirements])


def install_guard() -> int:
    """Let every Python of the environment import the guard when it starts: see there why."""
    command = [tool("python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    found = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if found.returncode == 0:
        packages = Path(found.stdout.strip())
        shutil.copy(GUARD, packages)
        (packages / f"{GUARD.stem}.pth").write_text(f"import {GUARD.stem}\n", encoding="utf-8")
    return found.returncode


def setup() -> int:
    """Make .venv, or bring it in line with the pins; nothing to do where its stamp is right."""
    check_python()
    wanted = digest_of_pins()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted:
        return 0
    if VENV.is_symlink():
        raise TaskError(
            f"{VENV} is a link to {VENV.resolve()}, which holds other pins than {ROOT} has: remove the link, and an "
            "environment of its own is made; nothing behind it was changed."
        )
    print(f"Installing the pinned environment into {VENV} (torch alone is about 3 GB on Linux) ...", flush=True)
    STAMP.unlink(missing_ok=True)
    made = subprocess.call([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if made != 0:
        raise TaskError(f"{sys.executable} -m venv could not make {VENV}: its own message stands above.")
    status = install_pins() or install_guard()
    if status == 0:
        STAMP.write_text(wanted, encoding="utf-8")
    return status


# --- the tasks ---------------------------------------------------------------------------------------------------


def call(*command: str) -> int:
    """Run a program of the environment in the repository, with the environment first on its path."""
    path = os.pathsep.join([str(Path(tool("python")).parent), os.environ.get("PATH", os.defpath)])
    environment = {**surroundings(), "PATH": path, "VIRTUAL_ENV": str(VENV)}
    environment.pop("PYTHONHOME", None)
    return subprocess.call([tool(command[0]), *command[1:]], cwd=ROOT, env=environment)


def every(*commands: Sequence[str]) -> int:
    """Run all the commands, whatever the first ones say, and return the first status that is not zero."""
    failed = [status for status in [call(*command) for command in commands] if status != 0]
    return failed[0] if failed else 0


def cores() -> str:
    """How many cores this process may use; fewer than the machine has, in a container or under taskset."""
    usable = getattr(os, "sched_getaffinity", None)
    return str(len(usable(0)) if usable else os.cpu_count() or 1)


def quickstart(extra: list[str]) -> int:
    """Run the quick start (config/config.yaml) and say where its tables and figures are."""
    status = call("snakemake", "--cores", cores(), *extra)
    if status == 0:
        for folder in sorted(ROOT.glob("results/*/tables")):
            print(f"tables: {folder.relative_to(ROOT)}\nfigures: {folder.parent.relative_to(ROOT) / 'figures'}")
    return status


def test(extra: list[str]) -> int:
    """Run the whole suite, the checks of style, Snakemake, Slurm and the quick start itself included."""
    return call("python", "-m", "pytest", "-n", "2", "--dist", "loadgroup", *extra)


def check_method(extra: list[str]) -> int:
    """Hold the card at the first argument, and the module beside it, to what every method promises (tests/contract)."""
    if not extra or not Path(extra[0]).is_file():
        raise TaskError(f"check-method takes the path of a card, as in my/method.yaml, found {' '.join(extra[:1])!r}.")
    os.environ["KD_CARDS"] = str(Path(extra[0]).resolve())
    return call(
        "python", "-m", "pytest", "-q", *(f"tests/contract/test_{part}.py" for part in ("cards", "pairs")), *extra[1:]
    )


def lint(extra: list[str]) -> int:
    """Check style and types: ruff, snakefmt, snakemake --lint, mypy."""
    return every(
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("snakefmt", "--check", "Snakefile", "rules"),
        ("snakemake", "--lint"),
        ("mypy", *extra),
    )


def tidy(extra: list[str]) -> int:
    """Rewrite the sources in the one style: ruff's safe fixes, ruff format, snakefmt."""
    return every(("ruff", "check", "--fix", ".", *extra), ("ruff", "format", "."), ("snakefmt", "Snakefile", "rules"))


def report(extra: list[str]) -> int:
    """Write results/EXPERIMENT/report.zip, one page with the tables and figures; EXPERIMENT defaults to quickstart."""
    experiment, options = ("quickstart", extra) if not extra or extra[0].startswith("-") else (extra[0], extra[1:])
    return call("snakemake", "--cores", cores(), "--report", f"results/{experiment}/report.zip", *options)


def bench(extra: list[str]) -> int:
    """Time the engine against a plain loop into results/benchmark/; further arguments go to the script benchmark.py."""
    folder = ROOT / "results" / "benchmark"
    return call("python", "workflow_scripts/benchmark.py", "--out", str(folder / "benchmark.json"), *extra)


def lease(extra: list[str]) -> int:
    """Train the field's table on one pair for as long as a machine is lent; the next lease goes on from there."""
    return call("python", "workflow_scripts/lease.py", *extra)


def docs(extra: list[str]) -> int:
    """Write the pages that are made from the code: config/README.md and its JSON schema, config/methods/README.md."""
    os.environ["PYTHONPATH"] = str(ROOT / "workflow_scripts")
    return every(*(("python", "-m", f"kd.reporting.{name}") for name in ("manual", "method_table")))


def export(extra: list[str]) -> int:
    """Write the student of a finished RUN, its folder, to take away: weights for timm, torch.export, ONNX."""
    return call("python", "workflow_scripts/export.py", *extra)


def fetch_teachers(extra: list[str]) -> int:
    """Fetch finished CIFAR-100 teachers of the field into data/teachers; arguments name networks."""
    return call("python", "workflow_scripts/fetch_teachers.py", *extra)


def slurm_profile(extra: list[str]) -> int:
    """Link config/profiles/slurm to where `snakemake --profile slurm` looks for it."""
    link = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "snakemake" / "slurm"
    if link.exists() and not link.is_symlink():
        raise TaskError(f"{link} is a profile of its own, not a link: move it away first.")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT / "config" / "profiles" / "slurm")
    print(f"{link} -> {link.readlink()}")
    return 0


def pin(extra: list[str]) -> int:
    """Resolve envs/*.in into the pins again; `--upgrade` takes the newest versions."""
    common = ("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--no-emit-index-url")
    header = ("--custom-compile-command", "python3 envs/task.py pin")
    return every(
        *(
            (*common, *header, *extra, f"envs/{name}.in", "-o", f"envs/{name}.txt")
            for name in ("requirements", "requirements-dev")
        )
    )


def execute(extra: list[str]) -> int:
    """Run any program of the environment, such as `exec snakemake --dry-run`."""
    if not extra:
        raise TaskError("exec needs the name of a program of the environment, such as `exec snakemake --dry-run`.")
    if shutil.which(tool(extra[0])) is None:
        raise TaskError(f"the environment has no program {extra[0]!r}.")
    return call(*extra)


TASKS: dict[str, Callable[[list[str]], int]] = {
    "setup": lambda extra: 0,
    "quickstart": quickstart,
    "test": test,
    "check-method": check_method,
    "lint": lint,
    "format": tidy,
    "report": report,
    "bench": bench,
    "lease": lease,
    "docs": docs,
    "export": export,
    "fetch-teachers": fetch_teachers,
    "slurm-profile": slurm_profile,
    "pin": pin,
    "exec": execute,
}


def main(arguments: Sequence[str]) -> int:
    """Set the environment up, run the named task with the further arguments, and return its status."""
    listing = "\n".join(f"  {name:14} {task.__doc__ or setup.__doc__}" for name, task in TASKS.items())
    parser = argparse.ArgumentParser(
        prog="task.py", description=__doc__, epilog=listing, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS, metavar="TASK", help="a task below; further arguments go to it")
    options = parser.parse_args(arguments[:1])
    try:
        return setup() or TASKS[options.task](list(arguments[1:]))
    except TaskError as error:
        print(f"task.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

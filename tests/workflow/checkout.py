"""Copies of the repository, and Snakemake run in them."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dry_run import snakemake_without_jobs

REPOSITORY = Path(__file__).resolve().parents[2]


def sources() -> list[str]:
    """The repository's files: what git knows or would add; without git, all but what runs and tools write."""
    if (REPOSITORY / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(
            command, capture_output=True, text=True, errors="backslashreplace", check=True
        ).stdout.split("\0")
        return [name for name in names if name and (REPOSITORY / name).is_file()]
    skipped = {".git", ".venv", ".snakemake", "results", "__pycache__"}
    paths = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*") if path.is_file())
    return [str(path) for path in paths if not skipped & set(path.parts)]


def copy_repository(target: Path) -> Path:
    """Copy the repository's files, and nothing that was run in it."""
    for name in sources():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, target / name)
    return target


def environment(**more: str) -> dict[str, str]:
    """A user's environment: this Python's tools first on the path, nothing of the test's own settings."""
    dropped = ("SNAKEMAKE_", "PYTEST_", "COV_", "XDG_CONFIG", "XDG_DATA", "TORCHINDUCTOR_", "OMP_", "MKL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return {**kept, "PATH": path, **more}


def snakemake(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a copy; stdout and stderr together in `stdout`."""
    command = ["snakemake", "--cores", "2", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        check=False,
    )


@dataclass(frozen=True)
class PlannedJob:
    """One job of a dry run."""

    rule: str
    wildcards: dict[str, str]
    reason: str


def planned(folder: Path, *arguments: str) -> list[PlannedJob]:
    """Return the jobs that a dry run would run, the target rule left out."""
    done = snakemake_without_jobs(folder, "-n", *arguments, environment=environment())
    assert done.returncode == 0, done.stdout[-3000:]
    jobs = []
    for block in re.split(r"^(?:local)?rule ", done.stdout, flags=re.MULTILINE)[1:]:
        rule = block.split(":", 1)[0]
        cards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
        pairs = dict(pair.split("=", 1) for pair in cards.group(1).split(", ")) if cards else {}
        reason = re.search(r"^    reason: (.*)$", block, re.MULTILINE)
        if rule != "all":
            jobs.append(PlannedJob(rule, pairs, reason.group(1) if reason else ""))
    return jobs


def once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """Let the first worker that asks make a folder; the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


def run_once(tmp_path_factory, name: str, *arguments: str, before=lambda folder: None) -> Path:
    def make(folder: Path) -> None:
        before(copy_repository(folder))
        done = snakemake(folder, *arguments)
        (folder / "run.log").write_text(done.stdout, encoding="utf-8")
        assert done.returncode == 0, done.stdout[-5000:]

    return once(tmp_path_factory, name, make)


def write_images(folder: Path) -> None:
    """Write some of the embedded digits as class folders of PNG files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(images[:400], labels[:400], strict=True)):
        path = folder / "data" / "images" / f"digit_{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15).astype("uint8")).convert("RGB").save(path)

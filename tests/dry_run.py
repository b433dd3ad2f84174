"""Snakemake in a process forked from one that has loaded it: what a start costs (1.5 s) is paid once, not 80 times.

For runs without jobs only: dry runs and refusals. What executes jobs starts Snakemake as a user does.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["snakemake.cli"])


def snakemake_without_jobs(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `snakemake --cores 2 ARGUMENTS` in a folder; stdout and stderr together in `stdout`."""
    command = ("--cores", "2", *arguments)
    with TemporaryDirectory() as name:
        output = Path(name) / "output"
        process = _FORKS.Process(target=_main, args=(command, folder, dict(environment or os.environ), output))
        process.start()
        process.join()
        return subprocess.CompletedProcess(
            ["snakemake", *command], process.exitcode, output.read_text(encoding="utf-8")
        )


def _main(command: tuple[str, ...], folder: Path, environment: dict[str, str], output: Path) -> None:
    # the tests' own path would bring this repository's library where a copy of it is to be looked at
    sys.path[:] = [
        path for path in sys.path if Path(path).is_relative_to(sys.prefix) or path.startswith(sys.base_prefix)
    ]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with output.open("w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = ["snakemake", *command]
    from snakemake.cli import main

    main()

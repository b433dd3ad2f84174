"""What the training scripts share: their arguments, and the start of a job."""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd.console.device import lease_gpus
from kd.console.entry import run, title_of
from kd.console.progress import Progress
from kd.study.job_settings import JobSettings, parse_settings
from kd.study.options import BUDGET, CHOSEN, option
from kd.study.titles import epochs_told, in_epochs

log = logging.getLogger("kd")


def training_parser(description: str | None, *inputs: str) -> argparse.ArgumentParser:
    """Return the parser of a training script; `inputs` adds the file arguments that it takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--settings", required=True, help="the job's settings as JSON")
    parser.add_argument("--data", type=packed_folder, required=True, help="packed arrays: the folder or its manifest")
    parser.add_argument("--out", type=Path, required=True, help="folder that the job fills")
    parser.add_argument("--code", default="", help="digest of the code, recorded in run.json")
    parser.add_argument("--gpus", type=int, default=0, help="devices to reserve")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--tuned", type=Path, nargs="*", default=[], help="how each network runs, where measured")
    if "teachers" in inputs:
        parser.add_argument("--teachers", type=Path, nargs="*", default=[], help="weights of the teachers, in order")
    if "outputs" in inputs:
        parser.add_argument("--outputs", type=Path, nargs="*", default=[], help="the teachers' outputs, in their order")
    if "budget" in inputs:
        parser.add_argument("--budget", type=Path, nargs="*", default=[], help="run.json of runs whose compute it has")
    for name in set(inputs) - {"teachers", "outputs", "budget"}:
        parser.add_argument(f"--{name}", type=Path, nargs="?", help="a file, or nothing where there is none")
    parser.set_defaults(history=True)
    return parser


def packed_folder(path: str) -> Path:
    """Return the folder of packed arrays that the folder itself or its manifest.json names."""
    return Path(path).parent if path.endswith(".json") else Path(path)


def run_training(work: Callable[..., Any], parser: argparse.ArgumentParser, rule: str) -> None:
    """Run the training of a job (its settings, its files, what is told of each epoch) as a script."""

    def main(arguments: argparse.Namespace) -> None:
        """Reserve devices before torch sees them, then train."""
        job = parse_settings(arguments.settings)
        lease_gpus(arguments.gpus)
        start_torch(arguments.threads)
        from kd.engine.jobs.files import Files

        files = Files(
            data=arguments.data,
            folder=arguments.out,
            teachers=getattr(arguments, "teachers", []),
            outputs=getattr(arguments, "outputs", []),
            pretrained=getattr(arguments, "pretrained", None),
            previous=getattr(arguments, "previous", None),
            budget=getattr(arguments, "budget", []),
            tuned=arguments.tuned,
            code=arguments.code,
        )
        if getattr(arguments, "chosen", None):
            job = option(CHOSEN).as_chosen(job, arguments.chosen)
        if job.budget is not None:
            job = option(BUDGET).within_budget(job, files)
        log.info("%s", describe(job, title_of(arguments)))
        with Progress(planned_epochs(job), title_of(arguments) or rule) as on_epoch:
            result = work(job, files, on_epoch)
        log.info("done in %.1f s, best validation epoch %d", result.seconds, result.best_epoch)

    run(main, parser, rule)


def describe(job: JobSettings, title: str = "") -> str:
    """Return one line on who teaches whom and for how long; without the job's title, by cards and architectures."""
    if not title:
        names = ", ".join(part.card for part in job.method)
        teachers = " + ".join(model.arch for model in job.teachers) or "no teacher"
        student = job.student.arch if job.student else "pre-stage"
        stage = f", stage {job.stage} {job.half}" if job.stage else ""
        title = f"{names}: {teachers} -> {student}, seed {job.seed}{stage}"
    used = job.student is not None and not job.student.train
    return f"{title}, {'used as it is' if used else in_epochs(planned_epochs(job))}"


def planned_epochs(job: JobSettings) -> int:
    """Return how many epochs a job will train, all of its stages counted."""
    return epochs_told(job.model_dump(mode="json"))


def start_torch(threads: int) -> None:
    """Import torch with so many threads; one process a core is how the workflow fills a machine."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if "KD_CACHE" in os.environ:  # what torch.compile makes is kept for the next job
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(f"{os.environ['KD_CACHE']}/inductor"))
    import torch

    torch.set_num_threads(threads)

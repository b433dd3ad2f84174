"""Train the students of several methods side by side: one pass over the images and the frozen teachers for all."""

import argparse
import logging
from pathlib import Path

from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.progress import Progress
from kd.console.training_script import describe, packed_folder, planned_epochs, start_torch
from kd.study.job_settings import parse_settings
from kd.tools.errors import UserError
from kd.tools.files import read_json

RULE = "train_students"
log = logging.getLogger("kd")


def main(arguments: argparse.Namespace) -> None:
    """Reserve devices before torch sees them, then train; what ends one run alone stands in its run.json."""
    runs = read_json(arguments.runs)
    job_list = [parse_settings(one["settings"]) for one in runs]
    lease_gpus(arguments.gpus)
    start_torch(arguments.threads)
    from kd.engine.jobs.files import Files
    from kd.engine.jobs.students import train_students

    files = [
        Files(
            data=arguments.data,
            folder=Path(one["folder"]),
            teachers=arguments.teachers,
            outputs=[Path(file) for file in one["outputs"]],
            pretrained=next(map(Path, one["pretrained"]), None),
            tuned=[Path(file) for file in one["tuned"]],
            code=one["code"],
        )
        for one in runs
    ]
    for job in job_list:
        # all of it within the log line, which decides no result
        log.info(
            "%s", describe(job, next(one["title"] for one, told in zip(runs, job_list, strict=True) if told is job))
        )
    with Progress(max(planned_epochs(job) for job in job_list), RULE) as on_epoch:
        outcomes = train_students(job_list, files, on_epoch)
    for one, outcome in zip(files, outcomes, strict=True):
        if isinstance(outcome, UserError):
            log.error("%s: %s", one.folder, outcome)
    log.info("done in %.1f s", sum(outcome.seconds for outcome in outcomes if not isinstance(outcome, UserError)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="JSON file: settings, code and inputs of each run")
    parser.add_argument("--data", type=packed_folder, required=True, help="packed arrays: the folder or its manifest")
    parser.add_argument("--teachers", type=Path, nargs="*", default=[], help="weights of the teachers, in order")
    parser.add_argument("--gpus", type=int, default=0, help="devices to reserve")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.set_defaults(history=True)
    run(main, parser, RULE)

"""Train a student on one task after the other."""

import argparse
import logging

from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.progress import Progress
from kd.console.training_script import start_torch, training_parser
from kd.study.continual import parse_continual_settings

log = logging.getLogger("kd")


def main(arguments: argparse.Namespace) -> None:
    """Reserve devices before torch sees them, then train."""
    job = parse_continual_settings(arguments.settings)
    lease_gpus(arguments.gpus)
    start_torch(arguments.threads)
    from kd.continual.jobs import describe, planned_epochs, train_run
    from kd.engine.jobs.files import Files

    log.info("%s", describe(job))
    files = Files(
        data=arguments.data,
        folder=arguments.out,
        teachers=arguments.teachers,
        outputs=arguments.outputs,
        code=arguments.code,
    )
    with Progress(planned_epochs(job), "continual_run") as on_epoch:
        result = train_run(job, files, on_epoch)
    log.info("done in %.1f s", result.seconds)


if __name__ == "__main__":
    run(main, training_parser(__doc__, "teachers", "outputs"), "continual_run")

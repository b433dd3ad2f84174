"""Ask a finished ASIB chain once about one fixed augmented view of the training images."""

import argparse

from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.training_script import start_torch, training_parser
from kd.study.job_settings import parse_settings


def main(arguments: argparse.Namespace) -> None:
    """Write outputs.safetensors and run.json."""
    job = parse_settings(arguments.settings)
    lease_gpus(arguments.gpus)
    start_torch(arguments.threads)
    from kd.continual.targets import synergy_outputs
    from kd.engine.jobs.files import Files

    synergy_outputs(job, Files(arguments.data, arguments.out, previous=arguments.previous, code=arguments.code))


if __name__ == "__main__":
    run(main, training_parser(__doc__, "previous"), "synergy_outputs")

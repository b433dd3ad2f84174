"""Ask a teacher once about one fixed augmented view of the training images."""

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
    from kd.engine.jobs.files import Files
    from kd.engine.jobs.teacher_outputs import teacher_outputs

    teacher_outputs(job, Files(arguments.data, arguments.out, teachers=arguments.teachers, code=arguments.code))


if __name__ == "__main__":
    run(main, training_parser(__doc__, "teachers"), "teacher_outputs")

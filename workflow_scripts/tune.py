"""Measure in which mode a network runs fastest here."""

import argparse
import os
from pathlib import Path

from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.training_script import start_torch, training_parser
from kd.study.job_settings import parse_settings


def main(arguments: argparse.Namespace) -> None:
    """Write choice.json and measured.json."""
    job = parse_settings(arguments.settings)
    lease_gpus(arguments.gpus)
    start_torch(arguments.threads)
    from kd.engine.jobs.files import Files
    from kd.engine.jobs.tune import tune

    cache = Path(os.environ["KD_CACHE"], "tuned") if os.environ.get("KD_CACHE") else None
    tune(job, Files(arguments.data, arguments.out, code=arguments.code), cache)


if __name__ == "__main__":
    run(main, training_parser(__doc__), "tune")

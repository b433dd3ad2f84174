"""Write the accuracies of a chain's synergy, student and teachers on all three splits (evaluation mode synergy)."""

import argparse
from pathlib import Path

from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.training_script import packed_folder, start_torch
from kd.study.job_settings import parse_settings
from kd.tools.files import write_json


def main(arguments: argparse.Namespace) -> None:
    """Write top-1 in percent by split."""
    job = parse_settings(arguments.settings)
    lease_gpus(arguments.gpus)
    start_torch(arguments.threads)
    from kd.engine.jobs.evaluate_team import evaluate_team
    from kd.engine.jobs.files import Files

    files = Files(data=arguments.data, folder=arguments.out.parent, previous=arguments.previous)
    write_json(arguments.out, evaluate_team(job, files))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the job's settings as JSON")
    parser.add_argument("--data", type=packed_folder, required=True, help="packed arrays: the folder or its manifest")
    parser.add_argument("--previous", type=Path, required=True, help="state of the last half-stage")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--gpus", type=int, default=0, help="devices to reserve")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    run(main, parser, "evaluate_synergy")

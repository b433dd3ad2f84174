"""Write what all that one half of an ASIB stage leaves makes of validation and training images."""

import argparse
from pathlib import Path

import numpy as np

from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.training_script import packed_folder, start_torch
from kd.study.job_settings import parse_settings
from kd.tools.files import atomic_path


def main(arguments: argparse.Namespace) -> None:
    """Write logits, labels and positions by split."""
    job = parse_settings(arguments.settings)
    lease_gpus(arguments.gpus)
    start_torch(arguments.threads)
    from kd.engine.jobs.files import Files
    from kd.engine.jobs.predict_team import predict_team

    folder = arguments.out.parent
    found = predict_team(job, Files(arguments.data, folder, teachers=arguments.teachers, previous=arguments.previous))
    with atomic_path(arguments.out) as path:
        np.savez_compressed(path, **found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the job's settings as JSON")
    parser.add_argument("--data", type=packed_folder, required=True, help="packed arrays: the folder or its manifest")
    parser.add_argument("--teachers", type=Path, nargs="*", default=[], help="weights that the teachers start from")
    parser.add_argument("--previous", type=Path, required=True, help="state of the half-stage")
    parser.add_argument("--out", type=Path, required=True, help="npz file to write")
    parser.add_argument("--gpus", type=int, default=0, help="devices to reserve")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    run(main, parser, "asib_predictions")

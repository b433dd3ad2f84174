"""Read the test split with a student as it was after each task: the task by task accuracy matrix of a run."""

import argparse
from pathlib import Path

from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.training_script import packed_folder, start_torch
from kd.study.continual import parse_continual_settings
from kd.study.made import drop_progress
from kd.tools.files import write_json


def main(arguments: argparse.Namespace) -> None:
    """Write matrix.json."""
    job = parse_continual_settings(arguments.settings)
    lease_gpus(arguments.gpus)
    start_torch(arguments.threads)
    from kd.continual.evaluation import accuracy_matrices

    write_json(arguments.out / "matrix.json", accuracy_matrices(job, arguments.data, arguments.weights))
    drop_progress(arguments.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the job's settings as JSON")
    parser.add_argument("--data", type=packed_folder, required=True, help="packed arrays: the folder or its manifest")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="weights after each task, in order")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--gpus", type=int, default=0, help="devices to reserve")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    run(main, parser, "continual_matrix")

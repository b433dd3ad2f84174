"""Fetch finished CIFAR-100 teachers of the field, and write the lines that an experiment uses them by."""

import argparse
import logging
from pathlib import Path

from kd.console.entry import run
from kd.console.training_script import start_torch

log = logging.getLogger("kd")


def main(arguments: argparse.Namespace) -> None:
    """Write the weights and models.yaml, and tell what to do with it."""
    start_torch(1)
    from kd.models.fetched import CIFAR100_TEACHERS, fetch_teachers

    fetch_teachers(arguments.archive or CIFAR100_TEACHERS, arguments.networks, arguments.out)
    log.info("behind --configfile FILE %s makes them the teachers of that experiment", arguments.out / "models.yaml")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="whose weights; all that there are by default")
    parser.add_argument(
        "--archive", help="a tar file of NETWORK_vanilla/NAME.pth, or its address, in place of the field's"
    )
    parser.add_argument("--out", type=Path, default=Path("data/teachers"), help="folder; data/teachers by default")
    run(main, parser, "fetch_teachers")

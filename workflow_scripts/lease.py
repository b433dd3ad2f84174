"""Train an experiment's methods on one pair for as long as a machine is lent, and go on at the next lease."""

import argparse
import logging
import os
import time
from pathlib import Path
from typing import Any

from kd.console.entry import run
from kd.console.training_script import start_torch
from kd.schema.reading import read_configuration
from kd.tools.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "config" / "experiments" / "cifar100_table.yaml"
LAST = 20.0
"""Seconds that are left for the table and the way out."""
log = logging.getLogger("kd")


def main(arguments: argparse.Namespace) -> None:
    """Train until shortly before the lease ends, and print what there is."""
    ends = time.monotonic() + max(1.0, 60 * arguments.minutes - LAST)
    if arguments.minutes <= 0:
        raise UserError(f"--minutes must be above 0, found {arguments.minutes:g}")
    start_torch(arguments.threads)
    from kd.speed.lease import Lease, pair_of

    content = read_configuration(arguments.experiment)
    content["datasets"] = {name: rooted(one, arguments.images) for name, one in content["datasets"].items()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.out)
    lease = Lease(pair_of(content, *arguments.pair, arguments.without), ends)
    finished = lease.run()
    print(lease.table())
    print("everything is trained" if finished else "the next lease goes on from here")


def rooted(dataset: dict[str, Any], images: Path | None) -> dict[str, Any]:
    """Return a data set whose folder is one of this machine's, wherever the process will be."""
    root = images or (ROOT / dataset["root"] if "root" in dataset else None)
    return dataset if root is None else {**dataset, "root": str(root.resolve())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=14, help="how long the machine is there")
    parser.add_argument("--pair", nargs=2, default=["resnet56", "resnet20"], metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--experiment", type=Path, default=TABLE, help="its data, methods and recipe")
    parser.add_argument("--without", nargs="*", default=[], metavar="METHOD", help="methods that are left out")
    parser.add_argument("--images", type=Path, help="folder of the data set's files, in place of the experiment's")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "lease", help="where the next lease goes on")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    run(main, parser, "lease")

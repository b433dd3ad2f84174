"""Make one run of a chain's half-stages: its best and last weights, its history, its whole cost."""

import argparse
from pathlib import Path

from kd.analysis.chain import join_chain
from kd.console.entry import run
from kd.study.made import drop_progress


def main(arguments: argparse.Namespace) -> None:
    """Write checkpoints, metrics.csv and run.json of the run."""
    join_chain(arguments.halves, arguments.out)
    for half in arguments.halves:
        drop_progress(half)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--halves", type=Path, nargs="+", required=True, help="folders of the half-stages in order")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    run(main, parser, "asib_result")

"""Gather every run of an experiment into runs.csv, one row a run, finished or not."""

import argparse
from pathlib import Path

from kd.analysis.collect import collect
from kd.console.entry import run
from kd.tools.files import read_json


def main(arguments: argparse.Namespace) -> None:
    """Write runs.csv."""
    collect(read_json(arguments.rows), arguments.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="JSON file: what there is to know of every run")
    parser.add_argument("--out", type=Path, required=True, help="runs.csv")
    run(main, parser, "collect")

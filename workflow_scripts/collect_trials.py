"""Gather every trial of every search into trials.csv, one row a trial, finished or not."""

import argparse
from pathlib import Path

from kd.analysis.trials import collect_trials
from kd.console.entry import run
from kd.tools.files import read_json


def main(arguments: argparse.Namespace) -> None:
    """Write trials.csv."""
    collect_trials(read_json(arguments.rows), arguments.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="JSON file: what there is to know of every trial")
    parser.add_argument("--out", type=Path, required=True, help="trials.csv")
    run(main, parser, "trials")

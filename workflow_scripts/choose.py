"""Choose the trial of a search with the highest validation accuracy."""

import argparse
from pathlib import Path

from kd.analysis.choice import choose
from kd.console.entry import run
from kd.tools.files import read_json


def main(arguments: argparse.Namespace) -> None:
    """Write choice.json."""
    choose(read_json(arguments.settings), arguments.runs, arguments.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="JSON file: the settings of every trial")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="run.json of every trial, in their order")
    parser.add_argument("--out", type=Path, required=True, help="choice.json")
    run(main, parser, "choose")

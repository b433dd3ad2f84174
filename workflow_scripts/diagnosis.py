"""Measure what half-stages of chains made of their images, from their saved predictions: synergy.csv."""

import argparse
import json
from pathlib import Path

from kd.analysis.runs import read_runs
from kd.analysis.synergy import gather_synergy, write_synergy
from kd.console.entry import run


def main(arguments: argparse.Namespace) -> None:
    """Write a line per run, split, half-stage and source."""
    settings = json.loads(arguments.settings)
    found = gather_synergy(read_runs(arguments.runs), settings["methods"], settings["temperature"])
    write_synergy(found, arguments.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--settings", required=True, help="methods that are told of and the temperature, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    run(main, parser, "diagnosis")

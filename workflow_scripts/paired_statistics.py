"""Means with t intervals over seeds, paired differences, exact p values."""

import argparse
from pathlib import Path

from kd.analysis.compared import compute_statistics
from kd.console.entry import run
from kd.schema.config import Reporting


def main(arguments: argparse.Namespace) -> None:
    """Write statistics.json."""
    compute_statistics(arguments.runs, arguments.out, Reporting.model_validate_json(arguments.report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--report", required=True, help="the experiment's report settings as JSON")
    parser.add_argument("--out", type=Path, required=True, help="statistics.json")
    run(main, parser, "statistics")

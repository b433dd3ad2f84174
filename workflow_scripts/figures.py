"""Draw the comparison: learning curves, accuracies, paired differences, accuracy against cost."""

import argparse
from pathlib import Path

from kd.console.entry import run
from kd.reporting.figures import write_figures
from kd.schema.config import Reporting


def main(arguments: argparse.Namespace) -> None:
    """Write the figures as PNG and PDF."""
    report = Reporting.model_validate_json(arguments.report)
    write_figures(arguments.runs, arguments.statistics, arguments.out, report)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--statistics", type=Path, required=True, help="statistics.json")
    parser.add_argument("--report", required=True, help="the experiment's report settings as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    run(main, parser, "figures")

"""Draw the comparison: learning curves, accuracies, paired differences, accuracy beside cost."""

import argparse
import json
from pathlib import Path

from kd.console.entry import run
from kd.reporting.figures import write_figures
from kd.schema.config import Reporting


def main(arguments: argparse.Namespace) -> None:
    """Write the figures as PNG and PDF."""
    settings = json.loads(arguments.settings)
    report = Reporting.model_validate(settings["report"])
    write_figures(arguments.runs, arguments.statistics, arguments.curves, arguments.out, report, settings["families"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--statistics", type=Path, required=True, help="statistics.json")
    parser.add_argument("--curves", type=Path, required=True, help="curves.csv")
    parser.add_argument("--settings", required=True, help="report settings, and families by base method, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    run(main, parser, "figures")

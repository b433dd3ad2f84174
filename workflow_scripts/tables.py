"""Write the comparison as CSV, Markdown, LaTeX and JSON."""

import argparse
from pathlib import Path

from kd.console.entry import run
from kd.reporting.tables import write_tables
from kd.schema.config import Experiment
from kd.study.plan import Plan
from kd.study.variant import cards_of
from kd.tools.files import read_json


def main(arguments: argparse.Namespace) -> None:
    """Write tables/comparison.*."""
    experiment = Experiment.model_validate(read_json(arguments.experiment))
    plan = Plan(experiment)
    write_tables(
        arguments.runs,
        arguments.statistics,
        arguments.out,
        experiment.report,
        cards_of(plan.variants.values()),
        plan.meta(),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=Path, required=True, help="JSON file: the checked experiment")
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--statistics", type=Path, required=True, help="statistics.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    run(main, parser, "tables")

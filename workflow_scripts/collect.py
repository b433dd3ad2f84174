"""Gather every run of an experiment into runs.csv, one row a run, finished or not."""

import argparse
import json
from pathlib import Path

from kd.analysis.collect import collect
from kd.console.entry import run
from kd.spec.experiment import check_experiment
from kd.spec.plan import Plan


def main(arguments: argparse.Namespace) -> None:
    """Write runs.csv."""
    plan = Plan(check_experiment(json.loads(arguments.experiment)))
    collect(list(plan.rows()), arguments.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True, help="the experiment as JSON")
    parser.add_argument("--out", type=Path, required=True, help="runs.csv")
    run(main, parser, "collect")

"""Write the table and figure of an experiment's own analysis: sensitivity, ladder, sweep, overlap, synergy."""

import argparse
from pathlib import Path

from kd.console.entry import run
from kd.reporting.design_files import write_designs
from kd.schema.config import Experiment
from kd.study.plan import Plan, families
from kd.tools.files import read_json


def main(arguments: argparse.Namespace) -> None:
    """Write tables/analysis.* and each design's figures."""
    experiment = Experiment.model_validate(read_json(arguments.experiment))
    plan = Plan(experiment)
    told = (experiment.report, plan.meta(), families(plan), arguments.synergy)
    write_designs(arguments.runs, plan.designs, arguments.out, *told)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=Path, required=True, help="JSON file: the checked experiment")
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--synergy", type=Path, nargs="?", help="synergy.csv, where the analysis is of that kind")
    parser.add_argument("--out", type=Path, required=True, help="folder that holds tables/ and figures/")
    run(main, parser, "analysis")

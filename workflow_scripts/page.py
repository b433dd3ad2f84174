"""Write report.html: the whole comparison on one page that opens offline."""

import argparse
from pathlib import Path

from kd.console.entry import run
from kd.reporting.page import Inputs, write_page
from kd.schema.config import Experiment
from kd.study.plan import Plan, families
from kd.study.variant import cards_of
from kd.tools.files import read_json


def main(arguments: argparse.Namespace) -> None:
    """Write the page."""
    experiment = Experiment.model_validate(read_json(arguments.experiment))
    plan = Plan(experiment)
    inputs = Inputs(
        runs=arguments.runs,
        statistics=arguments.statistics,
        curves=arguments.curves,
        details=arguments.details,
        figures=arguments.figures,
        continual=arguments.continual,
        trials=arguments.trials,
        synergy=arguments.synergy,
        networks=arguments.networks,
    )
    cards = cards_of(plan.variants.values())
    write_page(inputs, arguments.out, experiment.report, cards, plan.meta(), families(plan), plan.designs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=Path, required=True, help="JSON file: the checked experiment")
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--statistics", type=Path, required=True, help="statistics.json")
    parser.add_argument("--networks", type=Path, nargs="?", help="networks.json, where networks were measured")
    parser.add_argument("--curves", type=Path, required=True, help="curves.csv")
    parser.add_argument("--details", type=Path, required=True, help="details.json")
    parser.add_argument("--figures", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--trials", type=Path, nargs="?", help="trials.csv, where there are searches")
    parser.add_argument("--continual", type=Path, nargs="?", help="continual.json, where there are such runs")
    parser.add_argument("--synergy", type=Path, nargs="?", help="synergy.csv, where the analysis is of that kind")
    parser.add_argument("--out", type=Path, required=True, help="report.html")
    run(main, parser, "page")

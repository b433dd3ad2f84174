"""Write the comparison as CSV, Markdown, LaTeX and JSON, and its methods' papers as BibTeX."""

import argparse
from pathlib import Path

from kd.console.entry import run
from kd.reporting.bibliography import bibliography
from kd.reporting.layout import REFERENCES
from kd.reporting.tables import write_tables
from kd.schema.cards import card
from kd.schema.config import Experiment
from kd.study.plan import Plan
from kd.study.variant import cards_of
from kd.tools.files import atomic_write, read_json


def main(arguments: argparse.Namespace) -> None:
    """Write tables/comparison.* and tables/references.bib."""
    experiment = Experiment.model_validate(read_json(arguments.experiment))
    plan = Plan(experiment)
    cards = cards_of(plan.variants.values())
    write_tables(
        arguments.runs,
        arguments.statistics,
        arguments.out,
        experiment.report,
        cards,
        plan.meta(),
        arguments.trials,
        arguments.networks,
    )
    # teachers stand in the table too, and are trained with cross-entropy
    shown = {"ce", *(card(name).name for variant in plan.variants.values() for name, _ in variant.parts)}
    atomic_write(arguments.out / REFERENCES, bibliography(cards[name] for name in sorted(shown)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=Path, required=True, help="JSON file: the checked experiment")
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--statistics", type=Path, required=True, help="statistics.json")
    parser.add_argument("--trials", type=Path, nargs="?", help="trials.csv, where there are searches")
    parser.add_argument("--networks", type=Path, nargs="?", help="networks.json, where networks were measured")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    run(main, parser, "tables")

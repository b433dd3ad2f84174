"""Write table and figures of continual learning: accuracy matrices, their measures, mean and spread over seeds."""

import argparse
from pathlib import Path

from kd.console.entry import run
from kd.reporting.continual import write_continual
from kd.schema.config import Reporting
from kd.tools.files import read_json


def main(arguments: argparse.Namespace) -> None:
    """Write tables/continual.* and figures/<data set>/continual/*."""
    write_continual(read_json(arguments.runs), arguments.out, Reporting.model_validate_json(arguments.report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="JSON file: what there is to know of every run")
    parser.add_argument("--report", required=True, help="the experiment's report settings as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder that holds tables/ and figures/")
    run(main, parser, "continual_report")

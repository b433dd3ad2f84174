"""Write the history of all finished runs for another program, or their plain list."""

import argparse
import json
import logging
from pathlib import Path

from kd.analysis.compared import read_statistics
from kd.analysis.runs import read_runs
from kd.console.entry import run
from kd.reporting.results_list import FILES, listed, printed, write_results_list
from kd.reporting.sinks import check_library, write_tensorboard, write_wandb
from kd.tools.files import atomic_folder, write_json

HISTORY = "runs"
"""Folder beside index.json of what is written run by run."""
log = logging.getLogger("kd")


def main(arguments: argparse.Namespace) -> None:
    """Write the sink's files, and beside them index.json, which says what of them is whose."""
    told = json.loads(arguments.settings)
    sink = told["sink"]
    check_library(sink)
    runs = read_runs(arguments.runs)
    if sink == "results_list":
        lines = listed(runs, read_statistics(arguments.statistics))
        write_results_list(lines, arguments.out.parent)
        for line in printed(lines):
            log.info("%s", line)
        write_json(arguments.out, {"files": list(FILES)})
        return
    finished = list({row.path: row for row in runs if row.status == "ok"}.values())
    with atomic_folder(arguments.out.parent / HISTORY) as folder:
        if sink == "tensorboard":
            written = write_tensorboard(finished, folder)
        else:
            written = write_wandb(finished, folder, told["project"], told["entity"])
    write_json(arguments.out, {"folder": HISTORY, "runs": written})
    log.info("%d runs in %s", len(written), arguments.out.parent / HISTORY)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: the sink, and of wandb project and entity")
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--statistics", type=Path, required=True, help="statistics.json")
    parser.add_argument("--out", type=Path, required=True, help="index.json in the sink's folder")
    run(main, parser, "sink")

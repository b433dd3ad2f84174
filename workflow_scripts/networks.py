"""Measure what the networks of all finished runs take where they are deployed: networks.json."""

import argparse
from pathlib import Path

from kd.analysis.runs import read_runs
from kd.console.entry import run
from kd.console.training_script import start_torch
from kd.schema.config import ModelSettings
from kd.study.made import MANIFEST
from kd.tools.files import read_json, write_json


def main(arguments: argparse.Namespace) -> None:
    """Write networks.json."""
    asked = read_json(arguments.settings)
    built = {name: ModelSettings.model_validate(settings) for name, settings in asked["models"].items()}
    finished = [one for one in read_runs(arguments.runs) if one.status == "ok"]
    sides = {name: side_of(Path(folder)) for name, folder in asked["images"].items()}
    start_torch(1)
    from kd.engine.jobs.networks import measure_networks

    runs = {one.path: (built[one.student], side) for one in finished if (side := sides.get(one.dataset))}
    write_json(arguments.out, measure_networks(runs, asked["weights"]))


def side_of(folder: Path) -> int | None:
    """Return the side of packed images; None where they are no longer there, which is no reason to stop."""
    path = folder / MANIFEST
    return int(read_json(path, sealed=True)["shape"][-1]) if path.is_file() else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument("--settings", type=Path, required=True, help="JSON file: weights, networks, folders of images")
    parser.add_argument("--out", type=Path, required=True, help="networks.json")
    run(main, parser, "networks")

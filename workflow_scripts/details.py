"""Gather from the run folders what figures and page show of every method: curves.csv and details.json."""

import argparse
import base64
import json
import logging
from pathlib import Path

from kd.analysis.curves import write_curves
from kd.analysis.details import Example, Shown, gather, write_details
from kd.analysis.runs import read_runs
from kd.console.entry import run
from kd.data.examples import first_images, images_per_class
from kd.data.packed import Packed
from kd.study.made import MANIFEST
from kd.tools.errors import UserError

log = logging.getLogger(__name__)


def main(arguments: argparse.Namespace) -> None:
    """Write both files."""
    settings = json.loads(arguments.settings)
    runs = read_runs(arguments.runs)
    write_curves(runs, arguments.out / "curves.csv")
    shown = {name: found for name, folder in settings["images"].items() if (found := shown_of(Path(folder)))}
    write_details(gather(runs, shown, settings["weights"]), arguments.out / "details.json")


def shown_of(folder: Path) -> Shown | None:
    """Return what is told of packed images; None where they are no longer there, which is no reason to stop."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        packed = Packed(folder, unchecked=True)
        examples = [Example(name=name, png=base64.b64encode(png).decode()) for name, png in first_images(packed)]
    except UserError as error:
        log.warning("%s; the images are not shown", error)
        return None
    train, test = (images_per_class(packed, split) for split in ("train", "test"))
    return Shown(size=packed.image_size, classes=packed.classes, train=train, test=test, examples=examples)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv")
    parser.add_argument(
        "--settings", required=True, help="the weights that are reported and folders of images, as JSON"
    )
    parser.add_argument("--out", type=Path, required=True, help="the experiment's folder")
    run(main, parser, "details")

"""Time the training engine against a plain loop of the field's kind, in turns, and write JSON and a report.

--goals measures instead, in minutes, what the engine is to reach on a GPU, and tells a line for each goal.
"""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.training_script import start_torch
from kd.speed import report
from kd.speed.settings import PARTS, Settings, method_entries, parse
from kd.tools.errors import UserError

GOALS = "goals.json"
GOALS_IMAGES, GOALS_REPEATS = 6400, 3
"""A tenth of a second of a captured step, a second of the reference loop's: enough for both, and minutes for all."""


def main(arguments: argparse.Namespace) -> None:
    """Write the report of what is there, or choose the device before torch sees it and measure."""
    if arguments.report:
        if not arguments.out.exists():
            raise UserError(f"out: {arguments.out} does not exist, so there is nothing to report")
        report.write(report.read(arguments.out), arguments.out.parent)
        return
    settings = _settings(arguments)
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        lease_gpus(arguments.gpus)
    started = time.process_time()
    start_torch(arguments.threads or os.cpu_count() or 1)
    import torch

    from kd.speed.run import Start, benchmark

    start = Start(f"python {shlex.join(sys.argv)}", time.process_time() - started)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but torch sees no GPU; allowed are auto and cpu")
    if arguments.goals is not None:
        _goals(settings, arguments)
        return
    for part in arguments.parts:
        results = benchmark(settings, part, arguments.out, start)["results"]
        if part == "speed":
            print(report.plain(report.speed_table(results)))
            print(report.plain(report.part_table(results)))
    print(arguments.out.parent / report.PAGE)


def _goals(settings: Settings, arguments: argparse.Namespace) -> None:
    from kd.speed import goals

    path = arguments.out.with_name(GOALS)
    with TemporaryDirectory(prefix="kd-goals-") as folder:
        goals.run(settings, Path(folder), path, arguments.goals, lambda line: print(line, flush=True))
    print(path)


def _settings(arguments: argparse.Namespace) -> Settings:
    teachers = arguments.pair[0].split("+")
    if arguments.goals is not None:
        arguments.images, arguments.repeats = arguments.images or GOALS_IMAGES, arguments.repeats or GOALS_REPEATS
    methods = arguments.methods or (["kd"] if arguments.goals is None else ["all"])
    return parse(
        teachers=teachers,
        student=arguments.pair[1],
        methods=method_entries(methods, len(teachers)),
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        recipe=dict(_recipe_key(text) for text in arguments.recipe),
        images=arguments.images,
        repeats=arguments.repeats,
        data=arguments.images_from,
        train_images=arguments.train_images,
        weights=arguments.weights,
        workers=arguments.workers,
        validation=arguments.validation,
        accuracy_epochs=arguments.accuracy_epochs,
        seeds=arguments.seeds,
        target=arguments.target,
        counts=arguments.counts,
    )


def _recipe_key(text: str) -> tuple[str, Any]:
    """Return key and value of 'key=value'."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"recipe: found '{text}', allowed is KEY=VALUE, such as channels_last=false")
    return key, yaml.safe_load(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["speed"], help="what is measured")
    parser.add_argument("--pair", nargs=2, default=["resnet32x4", "resnet8x4"], metavar=("TEACHER", "STUDENT"))
    parser.add_argument(
        "--methods", nargs="+", help="cards; kd+dot combines two; all is every card (of --goals by default, else kd)"
    )
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", help="of the engine: auto, fp32, tf32, bf16 or fp16; the reference loop is fp32")
    parser.add_argument(
        "--recipe", nargs="+", default=[], metavar="KEY=VALUE", help="further recipe keys of the engine"
    )
    parser.add_argument("--images", type=int, help="images of each repeat and loop")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; all cores by default")
    parser.add_argument("--gpus", type=int, default=0, help="devices to reserve")
    parser.add_argument("--workers", type=int, help="processes that prepare images for the reference loop")
    # not named data: a folder with --data and --out is a run's, which this is not
    parser.add_argument(
        "--data", nargs="+", dest="images_from", metavar="DATA", help="digits, a folder, or archives; else synthetic"
    )
    parser.add_argument("--train-images", type=int, help="use so many of the training images")
    parser.add_argument("--validation", type=float, help="share of them that an evaluation is timed on")
    parser.add_argument("--weights", nargs="*", default=[], metavar="FILE", help="trained teachers, in order")
    parser.add_argument("--accuracy-epochs", type=int, help="length of each training of the parts accuracy and anchor")
    parser.add_argument("--seeds", type=int, help="seeds of these parts")
    parser.add_argument("--target", type=float, help="validation top-1 in %% to which the part anchor is timed")
    parser.add_argument("--counts", type=int, nargs="+", help="how many runs the part runs trains side by side")
    parser.add_argument(
        "--goals", type=float, metavar="MINUTES", help="measure the engine's goals on a GPU instead; ends in time"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing: write the report of --out again")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; the report is written beside it")
    run(main, parser, "benchmark")

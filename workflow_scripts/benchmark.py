"""Time the training engine against a plain loop of the field's kind, in turns, and write JSON and a report."""

import argparse
import os
import time
from pathlib import Path

from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.training_script import start_torch
from kd.spec.errors import UserError


def main(arguments: argparse.Namespace) -> None:
    """Choose the device before torch sees it, then measure."""
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        lease_gpus(arguments.gpus)
    started = time.perf_counter()
    start_torch(arguments.threads or os.cpu_count() or 1)
    import torch

    from kd.benchmark import report
    from kd.benchmark.run import Extras, axes, benchmark
    from kd.benchmark.settings import method_entry, parse

    imported = time.perf_counter() - started
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but torch sees no GPU; allowed are auto and cpu")
    settings = parse(
        teachers=arguments.pair[0].split("+"),
        student=arguments.pair[1],
        methods=[method_entry(name) for name in arguments.methods],
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        images=arguments.images,
        repeats=arguments.repeats,
        data=arguments.images_from,
        train_images=arguments.train_images,
        workers=arguments.workers,
    )
    extras = Extras(arguments.weights, arguments.parity_epochs, arguments.seeds, axes(arguments.scale), imported)
    record = benchmark(settings, arguments.out, extras)
    print(report.plain(report.speed_table(record)))
    print(report.plain(report.part_table(record)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", nargs=2, default=["resnet32x4", "resnet8x4"], metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--methods", nargs="+", default=["kd"], help="cards; kd+dot combines two")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", help="of the engine: auto, fp32, bf16 or fp16; the reference loop is fp32")
    parser.add_argument("--images", type=int, help="images of each repeat and loop")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; all cores by default")
    parser.add_argument("--gpus", type=int, default=0, help="devices to reserve")
    parser.add_argument("--workers", type=int, help="processes that prepare images for the reference loop")
    # not named data: a folder with --data and --out is a run's, which this is not
    parser.add_argument("--data", nargs="+", dest="images_from", metavar="PATH", help="a packed folder, or archives")
    parser.add_argument("--train-images", type=int, help="use so many of the training images")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="trained teachers, in order")
    parser.add_argument("--parity-epochs", type=int, default=0, help="also compare accuracies after so many epochs")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of that comparison")
    parser.add_argument("--scale", action="store_true", help="also measure how cost grows with the task")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; the report is written beside it")
    run(main, parser, "benchmark")

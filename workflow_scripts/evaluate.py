"""Read the test split, once, for the last and the validation-selected weights of a network."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd.analysis.metrics import (
    ensemble_accuracy,
    expected_calibration_error,
    negative_log_likelihood,
    top1_agreement,
    top_k_accuracy,
)
from kd.analysis.per_epoch import read_metrics
from kd.analysis.predictions import saved_logits
from kd.console.device import lease_gpus
from kd.console.entry import run
from kd.console.training_script import packed_folder, start_torch
from kd.study.job_settings import parse_settings
from kd.study.made import drop_progress
from kd.tools.files import atomic_path, write_json

if TYPE_CHECKING:
    from kd.engine.predict import Predictions

WEIGHTS = ("last", "best")


def main(arguments: argparse.Namespace) -> None:
    """Write predictions.npz and evaluation.json."""
    job = parse_settings(arguments.settings)
    lease_gpus(arguments.gpus)
    start_torch(arguments.threads)
    from kd.engine.data import load_data
    from kd.engine.jobs.evaluate import evaluate_network, evaluated_in
    from kd.engine.precision import training_device

    data = load_data(arguments.data, job, training_device())
    checkpoints = arguments.out / "checkpoints"
    found = {name: evaluate_network(job, arguments.data, checkpoints / f"{name}.safetensors", data) for name in WEIGHTS}
    first = found["best"]
    arrays: dict[str, Any] = {f"labels_{split}": first[split].labels for split in ("val", "test")}
    arrays["features_test"] = first["test"].features
    for name, splits in found.items():
        arrays.update({f"logits_{split}_{name}": splits[split].logits for split in splits})
    with atomic_path(arguments.out / "predictions.npz") as path:
        np.savez_compressed(path, **arrays)
    teacher = saved_logits(arguments.teacher, "logits_test_best") if arguments.teacher else None
    report: dict[str, Any] = {name: scores(splits, teacher) for name, splits in found.items()}
    report["ensemble"] = {name: together(arguments.members, name, splits["test"]) for name, splits in found.items()}
    report["test_top1_tracked_max"] = tracked_maximum(arguments.out / "metrics.csv")
    report["made"] = evaluated_in(job)
    write_json(arguments.out / "evaluation.json", report)
    drop_progress(arguments.out)


def scores(splits: dict[str, "Predictions"], teacher: np.ndarray | None) -> dict[str, float | None]:
    """Return what tables need of one set of weights; accuracies in percent."""
    logits, labels = splits["test"].logits, splits["test"].labels
    return {
        "val_top1": top_k_accuracy(splits["val"].logits, splits["val"].labels),
        "test_top1": top_k_accuracy(logits, labels),
        "test_top5": top_k_accuracy(logits, labels, 5),
        "test_nll": negative_log_likelihood(logits, labels),
        "test_ece": expected_calibration_error(logits, labels),
        "agreement": None if teacher is None else top1_agreement(logits, teacher),
    }


def together(members: Sequence[Path], weights: str, own: "Predictions") -> float | None:
    """Return the test accuracy of a chain's runs together, each with the same choice of weights; None of no chain."""
    if not members:
        return None
    logits = [saved_logits(member, f"logits_test_{weights}") for member in members]
    return ensemble_accuracy([*logits, own.logits], own.labels)


def tracked_maximum(metrics: Path) -> float | None:
    """Return the highest test accuracy over epochs where recipe.track_test recorded it."""
    values = [float(row["test_top1"]) for row in read_metrics(metrics) if row.get("test_top1")]
    return max(values, default=None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the job's settings as JSON")
    parser.add_argument("--data", type=packed_folder, required=True, help="packed arrays: the folder or its manifest")
    parser.add_argument("--out", type=Path, required=True, help="run folder that holds checkpoints/")
    parser.add_argument("--teacher", type=Path, nargs="?", help="predictions.npz of the first teacher, if there is one")
    parser.add_argument("--members", type=Path, nargs="*", default=[], help="predictions.npz averaged with these")
    parser.add_argument("--gpus", type=int, default=0, help="devices to reserve")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    run(main, parser, "evaluate")

"""A student after each of its tasks: accuracy on the images of every task learnt so far."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd.continual.tasks import Tasks, make_tasks, seen_part
from kd.data.store import ImageStore
from kd.engine.data import load_data
from kd.engine.modes import choose_modes, make_trainable
from kd.engine.precision import set_kernels, training_device
from kd.engine.predict import predict
from kd.models.build import build_model
from kd.models.weights import load_weights
from kd.study.continual import ContinualJobSettings

Matrix = list[list[float | None]]


def accuracy_matrices(job: ContinualJobSettings, data_folder: Path, weights: Sequence[Path]) -> dict[str, Any]:
    """Return accuracies in percent after each task (rows) on each task's images (columns), for both splits.

    "class": any seen class may be answered (class-incremental); None where the classes are not known yet. "task": only
    the classes of the image's own task may be answered (task-incremental). `weights` are those after each task.
    """
    device = training_device()
    set_kernels(job.recipe)
    data = load_data(data_folder, job, device)
    tasks = make_tasks(data.num_classes, job.num_tasks, job.class_order, job.seed)
    mode = choose_modes(job.recipe, device).frozen
    assert job.student is not None, "an evaluation names its network"
    found: dict[str, Any] = {split: {"class": [], "task": []} for split in ("test", "val")}
    for number, path in enumerate(weights, start=1):
        model = build_model(job.student, tasks.seen(number), data.image_size)
        load_weights(model, path)
        make_trainable(model, mode, device)
        for split, store in (("test", data.test), ("val", data.validation)):
            part = seen_part(store, tasks, tasks.seen(number))
            predicted = predict(
                model, part, data.augmenter, mode.on(device), job.recipe.eval_batch_size, 0, mode.channels_last
            )
            for kind, row in task_accuracies(predicted.logits, predicted.labels, tasks, number).items():
                found[split][kind].append(row)
    images = {split: images_of(store, tasks) for split, store in (("test", data.test), ("val", data.validation))}
    return {"class_order": list(tasks.order), "sizes": list(tasks.sizes), "images": images, **found}


def task_accuracies(logits: np.ndarray, labels: np.ndarray, tasks: Tasks, number: int) -> dict[str, list[float | None]]:
    """Return accuracies in percent on each task's images after task `number`, None for later tasks.

    `logits` (N,seen) and `labels` (N,) are those of all images of seen classes, by output.
    """
    rows: dict[str, list[float | None]] = {"class": [], "task": []}
    for task in range(1, len(tasks) + 1):
        first, end = tasks.seen(task - 1), tasks.seen(task)
        here = (labels >= first) & (labels < end)
        known = task <= number and bool(here.any())
        answers = {"class": logits[here].argmax(1), "task": first + logits[here, first:end].argmax(1)} if known else {}
        for kind, row in rows.items():
            row.append(100 * float(np.mean(answers[kind] == labels[here])) if known else None)
    return rows


def images_of(store: ImageStore, tasks: Tasks) -> list[int]:
    """Return how many images each task has in a split."""
    counts = np.bincount(tasks.outputs(store.labels).cpu().numpy(), minlength=len(tasks.order))
    return [int(counts[tasks.seen(task - 1) : tasks.seen(task)].sum()) for task in range(1, len(tasks) + 1)]

"""How much time and memory to ask a scheduler for: functions of the work and of the attempt."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

TRAIN_IMAGES = {"digits": 1500, "cifar10": 50_000, "cifar100": 50_000, "imagenet100": 130_000, "imagenet32": 1_281_167}
UNKNOWN_SOURCE = 100_000
IMAGES_PER_SECOND = 400  # a small net on a few cores; a GPU is ten times faster and its jobs simply end early
START_MINUTES = 5
COMPANION_MB = 250  # a further small net with its optimiser; 21 of them took 250 MB more than one, measured


def training_images(source: str, subset_size: int | None, counted: int | None = None) -> int:
    """Return about how many training images a data set's settings mean; `counted` are those seen in its folder."""
    images = counted or TRAIN_IMAGES.get(source, UNKNOWN_SOURCE)
    return min(images, subset_size or images)


def runtime_minutes(settings: str, images: int, attempt: int) -> int:
    """Return minutes to ask for; a job that ran into its limit resumes, with twice the time."""
    epochs = _settings(settings)["recipe"]["epochs"]
    return round(START_MINUTES + images * epochs / IMAGES_PER_SECOND / 60) * attempt


def memory_mb(settings: str, attempt: int) -> int:
    """Return MB of host memory to ask for: the libraries, and the images where they live in memory."""
    return (2000 + min(_settings(settings)["dataset"]["resident_limit_mb"], 4096)) * attempt


def memory_together_mb(jobs: Sequence[str], attempt: int) -> int:
    """Return MB for trainings side by side in one process, which share the libraries, the images and the teachers."""
    return max(memory_mb(job, attempt) for job in jobs) + COMPANION_MB * (len(jobs) - 1) * attempt


@cache
def _settings(settings: str) -> dict[str, Any]:
    """Return a job's settings; cached, for Snakemake asks about minutes and memory alone."""
    return json.loads(settings)

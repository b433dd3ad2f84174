"""How much time and memory to ask a scheduler for: functions of the work and of the attempt."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

TRAIN_IMAGES = {"digits": 1500, "cifar10": 50_000, "cifar100": 50_000, "imagenet100": 130_000, "imagenet32": 1_281_167}
UNKNOWN_SOURCE = 100_000
IMAGES_PER_SECOND = 400  # a small net on a few cores; a GPU is ten times faster and its jobs simply end early
START_MINUTES = 5
COMPANION_MB = 250  # a further small net with its optimiser; 21 of them took 250 MB more than one, measured


def training_images(dataset: Mapping[str, Any], counted: int | None = None) -> int:
    """Return about how many training images a data set's settings mean; `counted` are those seen in its folder."""
    images = counted or TRAIN_IMAGES.get(dataset["source"], UNKNOWN_SOURCE)
    return min(images, dataset["subset_size"] or images)


def runtime_minutes(settings: str, attempt: int) -> int:
    """Return minutes to ask for; a job that ran into its limit resumes, with twice the time."""
    return _first_attempt(settings)[0] * attempt


def memory_mb(settings: str, attempt: int) -> int:
    """Return MB of host memory to ask for: the libraries, and the images where they live in memory."""
    return _first_attempt(settings)[1] * attempt


def memory_together_mb(jobs: Sequence[str], attempt: int) -> int:
    """Return MB for trainings side by side in one process, which share the libraries, the images and the teachers."""
    return max(memory_mb(job, attempt) for job in jobs) + COMPANION_MB * (len(jobs) - 1) * attempt


@cache
def _first_attempt(settings: str) -> tuple[int, int]:
    """Return minutes and MB; cached, for Snakemake asks about each of them alone."""
    job = json.loads(settings)
    dataset = job["dataset"]
    images = training_images(dataset)
    minutes = images * job["recipe"]["epochs"] / IMAGES_PER_SECOND / 60
    return round(START_MINUTES + minutes), 2000 + min(dataset["resident_limit_mb"], 4096)

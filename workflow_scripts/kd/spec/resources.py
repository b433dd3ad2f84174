"""How much time and memory to ask a scheduler for: functions of the work and of the attempt."""

import json

TRAIN_IMAGES = {"digits": 1500, "cifar10": 50_000, "cifar100": 50_000, "imagenet100": 130_000, "imagenet32": 1_281_167}
UNKNOWN_SOURCE = 100_000
IMAGES_PER_SECOND = 400  # a small net on a few cores; a GPU is ten times faster and its jobs simply end early
START_MINUTES = 5


def runtime_minutes(settings: str, attempt: int) -> int:
    """Return minutes to ask for; a job that ran into its limit resumes, with twice the time."""
    job = json.loads(settings)
    images = job["dataset"]["subset_size"] or TRAIN_IMAGES.get(job["dataset"]["source"], UNKNOWN_SOURCE)
    minutes = images * job["recipe"]["epochs"] / IMAGES_PER_SECOND / 60
    return round(START_MINUTES + minutes) * attempt


def memory_mb(settings: str, attempt: int) -> int:
    """Return MB of host memory to ask for: the libraries, and the images where they live in memory."""
    job = json.loads(settings)
    return (2000 + min(job["dataset"]["resident_limit_mb"], 4096)) * attempt

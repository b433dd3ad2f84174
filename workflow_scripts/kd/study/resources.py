"""How much time and memory to ask a scheduler for: functions of the work and of the attempt."""

from collections.abc import Sequence
from dataclasses import dataclass

TRAIN_IMAGES = {"digits": 1500, "cifar10": 50_000, "cifar100": 50_000, "imagenet100": 130_000, "imagenet32": 1_281_167}
UNKNOWN_SOURCE = 100_000
IMAGES_PER_SECOND = 400  # a small net on a few cores; a GPU is ten times faster and its jobs simply end early
START_MINUTES = 5
LIBRARIES_MB = 2000
MOST_RESIDENT_MB = 4096
COMPANION_MB = 250  # a further small net with its optimiser; 21 of them took 250 MB more than one, measured


@dataclass(frozen=True)
class Work:
    """What a job is likely to take; one that ran into a limit goes on with twice as much."""

    minutes: int
    mem_mb: int

    def at(self, attempt: int) -> "Work":
        """Return what the attempt of this number (from 1) asks for."""
        return Work(self.minutes * attempt, self.mem_mb * attempt)


def training_work(images: int, epochs: int, resident_limit_mb: int) -> Work:
    """Return what a training on so many images takes: the libraries, and the images where they live in memory."""
    minutes = round(START_MINUTES + images * epochs / IMAGES_PER_SECOND / 60)
    return Work(minutes, LIBRARIES_MB + min(resident_limit_mb, MOST_RESIDENT_MB))


def work_together(parts: Sequence[Work]) -> Work:
    """Return what trainings side by side in one process take, which share libraries, images and teachers."""
    memory = max(work.mem_mb for work in parts) + COMPANION_MB * (len(parts) - 1)
    return Work(sum(work.minutes for work in parts), memory)


def training_images(source: str, subset_size: int | None, counted: int | None = None) -> int:
    """Return about how many training images a data set's settings mean; `counted` are those seen in its folder."""
    images = counted or TRAIN_IMAGES.get(source, UNKNOWN_SOURCE)
    return min(images, subset_size or images)

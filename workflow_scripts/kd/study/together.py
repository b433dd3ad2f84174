"""Which students are trained side by side: those of `co_train`, as many in one job as `students_per_job` allows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from kd.schema.config import Experiment
from kd.study.runs import Run

Item = TypeVar("Item")


@dataclass(frozen=True)
class Together:
    """The students of one job, for every data set and team that has these methods."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    """Of one job; with none there is a job for each seed."""

    def holds(self, run: Run) -> bool:
        """Whether a run is trained in such a job."""
        return run.method in self.methods and (not self.seeds or run.seed in self.seeds)

    def runs(self, run: Run) -> list[Run]:
        """Return the runs of the job that holds a run, seed by seed: those of a seed share their images."""
        seeds = self.seeds or (run.seed,)
        return [replace(run, method=method, seed=seed) for seed in seeds for method in self.methods]


def together(experiment: Experiment) -> list[Together]:
    """Return what trains an experiment's students side by side; nothing without `co_train`.

    Methods of one seed come first, for they share images and teachers' passes. Where one job may have more students
    than there are methods, further seeds join whole, if they share the teacher and so the split.
    """
    methods = experiment.co_train
    if not methods:
        return []
    most = experiment.students_per_job or len(methods)
    if len(methods) > most:
        return [Together(part) for part in evenly(methods, most)]
    seeds = most // len(methods)
    if experiment.teacher_seed == "same" or min(seeds, len(experiment.seeds)) == 1:
        return [Together(tuple(methods))]
    return [Together(tuple(methods), part) for part in evenly(experiment.seeds, seeds)]


def evenly(items: Sequence[Item], most: int) -> Iterator[tuple[Item, ...]]:
    """Yield parts in order, as few as hold `most` each and as equal in length as can be."""
    parts = -(-len(items) // most)
    ends = [len(items) * part // parts for part in range(parts + 1)]
    yield from (tuple(items[start:end]) for start, end in pairwise(ends))

"""How many students a GPU has room for at once: what one takes is measured before any of them is trained."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from kd.engine.checkpoint import ResumeFile
from kd.engine.jobs.files import Files
from kd.engine.jobs.trainings import frozen_forward_of
from kd.engine.jobs.workbench import Workbench, prepare
from kd.engine.training import Training
from kd.methods.contract import stages_of
from kd.study.digests import canonical
from kd.study.job_settings import JobSettings
from kd.tools.errors import UserError

SPARE = 0.85
"""Share of the free memory that is planned with: allocators round up, and other jobs grow."""
HELD = 2
"""A graph holds what its step needs for itself, beside what the smaller last batch takes."""

log = logging.getLogger(__name__)


def fitting(jobs: Sequence[JobSettings], folders: Sequence[Files], companion: Workbench) -> list[list[int]]:
    """Return which jobs (by number) are trained at once, set after set, on the device of a companion.

    A CPU takes one step after the other, and so has room for all. Errors: UserError where there is none for one.
    """
    device = companion.team.device
    if device.type != "cuda" or len(jobs) == 1:
        return [list(range(len(jobs)))]
    known: dict[str, int] = {}
    needs = []
    for job, files in zip(jobs, folders, strict=True):
        # another seed takes as much
        alike = canonical([job.student and job.student.model_dump(mode="json"), job.model_dump(mode="json")["method"]])
        alike += canonical(job.recipe.model_dump(mode="json"))
        known[alike] = known.get(alike) or HELD * taken(job, files, companion)
        needs.append(known[alike])
    free = int(SPARE * free_memory(device))
    sets = in_sets(needs, free)
    if len(sets) > 1:
        log.warning(
            "%d students take %d MB at once and %d MB are free: they are trained in %d sets, one after the other",
            *(len(jobs), sum(needs) // 2**20, free // 2**20, len(sets)),
        )
    return sets


def in_sets(needs: Sequence[int], free: int) -> list[list[int]]:
    """Return numbers in order, as few sets of them as have room each; what needs more than there is stands alone."""
    sets: list[list[int]] = []
    left = 0
    for number, need in enumerate(needs):
        if not sets or need > left:
            sets.append([])
            left = free
        sets[-1].append(number)
        left -= need
    return sets


def free_memory(device: torch.device) -> int:
    """Return the bytes that torch may still take of a GPU, those that it holds without use included."""
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def taken(job: JobSettings, files: Files, companion: Workbench) -> int:
    """Return the bytes that a training adds at its peak to what a companion holds: its networks, and a step of each
    of its stages, taken on copies that are thrown away."""
    device = companion.team.device
    free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        _rehearse(job, files, companion)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a step of {files.folder} does not fit into the {free_memory(device) // 2**20} MB that are free on the "
            "GPU: lower recipe.batch_size, or jobs_per_gpu where other jobs share it"
        ) from error
    return int(torch.cuda.max_memory_allocated(device) - before)


def _rehearse(job: JobSettings, files: Files, companion: Workbench) -> None:
    bench = prepare(job, files, companion)
    frozen = frozen_forward_of(bench, files)
    nowhere = ResumeFile(Path(os.devnull), "")
    training = Training(
        bench.team, bench.method, bench.data, job.recipe, bench.precision, job.seed, nowhere, lambda row: None, frozen
    )
    training.feed.most = 1
    for stage in stages_of(bench.method):
        training.start([stage])
        training.begin_epoch()
        for batch in training.feed.epoch():
            training.step(batch, frozen.outputs(batch), frozen.cost(len(batch.labels)))

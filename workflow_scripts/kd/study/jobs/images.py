"""Packing a data set, and what is known of its images before any job."""

from functools import partial

from kd.study.contents import Contents, contents_of
from kd.study.digests import canonical
from kd.study.job_plan import JobPlan, record_in
from kd.study.jobs.making import Jobs, of_rule
from kd.study.made import MANIFEST, read_record
from kd.study.plan import Plan
from kd.study.resources import UNKNOWN_SOURCE, Work, training_images
from kd.study.user_files import check_images
from kd.tools.memo import remembered


@of_rule
def prepare_data(jobs: Jobs, dataset: str) -> JobPlan:
    """Return the packing of a data set."""
    settings = jobs.plan.experiment.datasets[dataset]
    return jobs.make(
        "prepare_data",
        f"{jobs.plan.folder}/{dataset}/data",
        canonical(settings.packing()),
        {"prepare_data", f"kd.data.sources.{settings.source}"},
        look=partial(check_images, dataset, settings),
        contents=contents(jobs, dataset).digest,
        work=Work(minutes=240, mem_mb=2000),
    )


def packing(jobs: Jobs, dataset: str) -> JobPlan:
    """Return the job that packs the arrays of a data set: one for all data sets that pack the same."""
    return jobs.of("prepare_data", jobs.plan.packed_as[dataset])


def data_folder(plan: Plan, dataset: str) -> str:
    """Return where a data set's arrays are packed."""
    return f"{plan.folder}/{plan.packed_as[dataset]}/data"


def manifest(plan: Plan, dataset: str) -> str:
    """Return the file that stands for a data set's arrays."""
    return f"{data_folder(plan, dataset)}/{MANIFEST}"


@remembered
def contents(jobs: Jobs, dataset: str) -> Contents:
    """Return what there is to pack now: its digest, and about how many training images.

    Where nothing is, the number is that of when it was packed: results are judged alike where the images are gone.
    """
    if (first := jobs.plan.packed_as[dataset]) != dataset:
        return contents(jobs, first)
    found = contents_of(jobs.plan.experiment.datasets[dataset])
    if found.digest is None and found.train_images is None:
        record = read_record(record_in(data_folder(jobs.plan, dataset), "prepare_data")) or {}
        if isinstance(images := record.get("train_images"), int):
            return Contents(None, images)
    return found


@remembered
def images_of(jobs: Jobs, dataset: str) -> int:
    """Return about how many images a training reads; of archives, whose sizes tell only the most, not too many."""
    settings, counted = jobs.plan.experiment.datasets[dataset], contents(jobs, dataset).train_images
    if settings.archives and counted is not None:
        counted = min(counted, max(UNKNOWN_SOURCE, settings.subset_size or 0))
    return training_images(settings.source, settings.subset_size, counted)

"""How long a job trains: the stages of its method, and their epochs."""

from kd.engine.resolve import build_method
from kd.methods.contract import Halved, Method, Pretrains, Stage, stages_of
from kd.study.job_settings import JobSettings


def stages_of_job(job: JobSettings, method: Method) -> list[Stage]:
    """Return the stages that a job trains: a pre-stage where there is no student, one half of a chain, or all."""
    if job.student is None:
        assert isinstance(method, Pretrains), f"{method.name} has no pre-stage"
        return [method.pretrain_plan()]
    if job.half is not None:
        assert isinstance(method, Halved), f"{method.name} is no chain"
        return [method.half_stage(job.half)]
    return stages_of(method)


def planned_epochs(job: JobSettings) -> int:
    """Return how many epochs a job will train, all of its stages counted."""
    if job.student is not None and not job.student.train:
        return 0
    stages = stages_of_job(job, build_method(job.method, len(job.teachers)))
    return sum(stage.recipe.get("epochs", job.recipe.epochs) for stage in stages)

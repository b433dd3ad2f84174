"""How long a job trains: the stages of its method, and their epochs."""

from kd.engine.resolve import build_method
from kd.methods.contract import Method, Stage
from kd.study.job_settings import JobSettings


def stages_of(job: JobSettings, method: Method) -> list[Stage]:
    """Return the stages that a job trains."""
    if job.student is None:
        return [method.pretrain_plan()]
    return [method.half_stage(job.half)] if job.half else method.plan()


def planned_epochs(job: JobSettings) -> int:
    """Return how many epochs a job will train, all of its stages counted."""
    if job.student is not None and not job.student.train:
        return 0
    stages = stages_of(job, build_method(job.method, len(job.teachers)))
    return sum(stage.recipe.get("epochs", job.recipe.epochs) for stage in stages)

"""A student's training alone, or (with the card ce) a teacher's."""

import logging

from kd.engine.evaluation import accuracies
from kd.engine.history import Result
from kd.engine.jobs.files import Files
from kd.engine.jobs.trainings import finish, save_student, train
from kd.engine.jobs.workbench import Workbench, prepare
from kd.engine.training import OnEpoch
from kd.methods.contract import STUDENT, stages_of
from kd.models.freezing import refuse_unfinished
from kd.record.epochs import write_metrics
from kd.record.run_json import write_settings
from kd.study.job_settings import JobSettings

log = logging.getLogger(__name__)


def train_student(job: JobSettings, files: Files, on_epoch: OnEpoch) -> Result:
    """Train a student (or, with the card ce, a teacher) and write its run folder."""
    bench = prepare(job, files)
    if job.student is not None and not job.student.train:
        return _keep_as_it_is(bench, files)
    result = train(bench, files, stages_of(bench.method), on_epoch)
    save_student(files.folder, bench, result)
    finish(bench, files, result)
    return result


def _keep_as_it_is(bench: Workbench, files: Files) -> Result:
    """Write the run folder of a finished teacher: its weights as they were given, no epoch, no cost."""
    job, team, data = bench.job, bench.team, bench.data
    assert job.student is not None, "a teacher's job names its network"
    refuse_unfinished(bench.origin)
    weights = {name: value.detach().cpu().clone() for name, value in team.models[STUDENT].state_dict().items()}
    reading = (data.validation, data.augmenter, bench.precision, job.recipe.eval_batch_size)
    top = accuracies(team, bench.method, *reading, [STUDENT], heads=False)[STUDENT]
    log.info("%s is used as it is: top-1 on validation %.2f %%", job.student.pretrained, top)
    own = team.models[STUDENT].normalised or data.normalisation
    log.info("its images are normalised by mean %s and std %s", list(own.mean), list(own.std))
    if top * data.num_classes <= 100:
        log.warning("that is no better than chance: are the file's classes those of the data, in the same order?")
    result = Result(last=weights, best=weights)
    write_settings(files.folder, job.model_dump(mode="json"))
    write_metrics(files.folder / "metrics.csv", [])
    save_student(files.folder, bench, result)
    finish(bench, files, result, more={"trained": False, "validation": {"val_top1": top}})
    return result

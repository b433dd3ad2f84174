"""One trial of a search: a student's training of which only its numbers are kept."""

import logging

import torch

from kd.engine.history import Result
from kd.engine.jobs.files import Files
from kd.engine.jobs.trainings import finish, training_of
from kd.engine.jobs.workbench import prepare
from kd.engine.training import OnEpoch
from kd.methods.contract import stages_of
from kd.record.epochs import write_metrics
from kd.study.job_settings import JobSettings
from kd.tools.errors import DivergenceError, UserError

log = logging.getLogger(__name__)


def train_trial(job: JobSettings, files: Files, on_epoch: OnEpoch) -> Result:
    """Train a student, and write metrics.csv and run.json with the validation accuracies that a choice reads.

    A training that diverges is a result, for its settings made it so: run.json has status failed and the reason. What
    else ends it (memory, a disk, a kill) says nothing of them and ends the job, to be tried again.
    """
    bench = prepare(job, files)
    training = training_of(bench, files, on_epoch)
    failure: UserError | None = None
    try:
        training.run(stages_of(bench.method))
    except DivergenceError as error:
        failure = error
    except torch.linalg.LinAlgError as error:  # what decompositions say of matrices that are not finite
        failure = DivergenceError(f"training diverged: {str(error).splitlines()[0]}")
    result = training.result
    if failure is not None:
        log.warning("%s: this trial is not chosen", failure)
        result.seconds = training.clock.seconds()
    write_metrics(files.folder / "metrics.csv", result.rows)
    finish(bench, files, result, failure, more={"selected": _selected(result) if failure is None else {}})
    return result


def _selected(result: Result) -> dict[str, float]:
    """Return the validation accuracies (%) of the best epoch's weights and of the last one's."""
    return {"best": result.rows[result.best_epoch - 1]["val_top1"], "last": result.rows[-1]["val_top1"]}

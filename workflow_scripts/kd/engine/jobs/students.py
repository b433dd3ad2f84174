"""Students of several methods or seeds side by side in one process, which share what is the same for them."""

import copy
from collections.abc import Sequence

from kd.engine.cotraining import train_together
from kd.engine.history import Result
from kd.engine.jobs.files import Files
from kd.engine.jobs.room import fitting
from kd.engine.jobs.trainings import finish, save_student, training_of
from kd.engine.jobs.workbench import Workbench, prepare
from kd.engine.training import OnEpoch, Training
from kd.methods.contract import STUDENT, Stage, stages_of
from kd.record.epochs import write_metrics
from kd.study.job_settings import JobSettings
from kd.tools.errors import UserError


def train_students(
    jobs: Sequence[JobSettings], folders: Sequence[Files], on_epoch: OnEpoch
) -> list[Result | UserError]:
    """Train several students of one team in one process; each run folder is as if trained alone.

    A training that diverges leaves the best weights that it had (or those it began with), and run.json with status
    failed and the reason, which is returned in its place. Only where all of them diverge is it raised.
    """
    benches: list[Workbench] = []
    for job, files in zip(jobs, folders, strict=True):
        benches.append(prepare(job, files, benches[0] if benches else None))
    begun = [copy.deepcopy(bench.team.models[STUDENT].state_dict()) for bench in benches]
    trainings = [training_of(bench, files, on_epoch) for bench, files in zip(benches, folders, strict=True)]
    outcomes = _in_sets(trainings, [stages_of(bench.method) for bench in benches], fitting(jobs, folders, benches[0]))
    failures = [outcome if isinstance(outcome, UserError) else None for outcome in outcomes]
    if all(failures):
        raise next(failure for failure in failures if failure is not None)
    for bench, files, training, failure, weights in zip(benches, folders, trainings, failures, begun, strict=True):
        result = training.result
        if failure is not None:
            result.best = result.last = result.best or weights
        write_metrics(files.folder / "metrics.csv", result.rows)
        save_student(files.folder, bench, result)
        finish(bench, files, result, failure)
    return outcomes


def _in_sets(
    trainings: Sequence[Training], plans: Sequence[list[Stage]], sets: Sequence[Sequence[int]]
) -> list[Result | UserError]:
    """Train set after set, and return what each training leaves in the order of the trainings."""
    outcomes: dict[int, Result | UserError] = {}
    for numbers in sets:
        found = train_together([trainings[number] for number in numbers], [plans[number] for number in numbers])
        outcomes.update(zip(numbers, found, strict=True))
    return [outcomes[number] for number in range(len(trainings))]

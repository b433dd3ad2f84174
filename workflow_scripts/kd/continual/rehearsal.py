"""The rehearsal of an experiment whose class-incremental runs are gone through, too: their first two tasks."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch

from kd.continual.ewc import grow
from kd.continual.method import BALANCE, PREVIOUS, TRAIN, Incremental
from kd.continual.tasks import Tasks, balanced_data, make_tasks, task_data
from kd.engine.data import Data
from kd.engine.outlook import Stretch
from kd.engine.rehearsal import Measured, Rehearsal, StandIns, context_of, measured, rehearse
from kd.methods.contract import STUDENT, teacher
from kd.models.build import build_model
from kd.models.freezing import freeze
from kd.study.checks import Check
from kd.study.continual import ContinualJobSettings, Strategy
from kd.study.job_settings import JobSettings


class ContinualRehearsal(Rehearsal):
    """Goes through class-incremental runs, too."""

    def rehearsed(self, check: Check, job: JobSettings, data: Data) -> dict[str, str]:
        """Make a training ready, take a step of each of its updates, and return what its network is deployed with."""
        if not isinstance(job, ContinualJobSettings):
            return super().rehearsed(check, job, data)
        assert job.strategy is not None, "a training names its strategy"
        assert job.student is not None, "a training names its student"
        self.networks.network(check, job.student, data)  # of all classes: what its passes cost stands for every task's
        tasks = make_tasks(data.num_classes, job.num_tasks, job.class_order, job.seed)
        found = {teacher(k): (copy.deepcopy(model), c) for k, (model, c) in enumerate(self.teachers(check, job, data))}
        before: Measured | None = None
        stretches: list[Stretch] = []
        for number in (1, 2):
            found[STUDENT] = _student(job, tasks, number, data, before)
            if before is not None and job.strategy.prev_kd_weight > 0:
                found[PREVIOUS] = before
            for phase, part in _phases(job, job.strategy, tasks, number, data):
                seen = tasks.seen(number)
                labels = torch.tensor(tasks.order[:seen])
                old, teachers = tasks.seen(number - 1), len(job.teachers)
                method = Incremental(job.strategy, teachers, old, seen, phase, None, labels)
                models, context = context_of(found, part)
                # what is kept of a chain are logits of all classes
                team = StandIns(models, context)
                steps = rehearse(team, context, method, method.wants(), part, job, data.num_classes)
                # the second task stands for all later ones
                again = 1 if number == 1 else job.num_tasks - 1
                stretches += [replace(one, epochs=again * one.epochs) for one in steps]
            before = found[STUDENT]
        self.note(check, job, found, stretches)
        return {}


def _student(job: ContinualJobSettings, tasks: Tasks, number: int, data: Data, before: Measured | None) -> Measured:
    """Return the student of a task, grown from that of the task before."""
    assert job.student is not None, "a training names its student"
    settings = job.student if before is None else job.student.model_copy(update={"pretrained": False})
    model = build_model(settings, tasks.seen(number), data.image_size)
    freeze(model, settings.freeze, settings.freeze_bn)
    if before is not None:
        grow(model, before[0].state_dict())
    return model, measured(model, data)


def _phases(
    job: ContinualJobSettings, strategy: Strategy, tasks: Tasks, number: int, data: Data
) -> Iterator[tuple[str, Data]]:
    """Yield what a task consists of, with its images."""
    capacity = strategy.replay_capacity
    yield TRAIN, task_data(data, tasks, number, capacity, strategy.replay_ratio, job.seed)
    if strategy.balance_epochs and number > 1:
        yield BALANCE, balanced_data(data, tasks, number, capacity, job.seed)

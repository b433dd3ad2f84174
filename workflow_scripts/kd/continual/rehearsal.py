"""The rehearsal of an experiment whose class-incremental runs are gone through, too: their first two tasks."""

import copy
from typing import Any

import torch

from kd.continual.ewc import grow
from kd.continual.method import BALANCE, PREVIOUS, TRAIN, Incremental
from kd.continual.tasks import balanced_data, make_tasks, task_data
from kd.engine.data import Data
from kd.engine.rehearsal import Rehearsal, StandIns, context_of, measured, rehearse
from kd.methods.contract import STUDENT, Context, teacher
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.models.freezing import freeze
from kd.spec.checks import Check
from kd.spec.continual import ContinualJob
from kd.spec.job import Job


class ContinualRehearsal(Rehearsal):
    """Goes through class-incremental runs, too."""

    def rehearsed(self, check: Check, job: Job, data: Data) -> dict[str, str]:
        """Make a training ready and take a step of each of its updates; what its network is deployed with is returned."""
        if not isinstance(job, ContinualJob):
            return super().rehearsed(check, job, data)
        assert job.strategy is not None, "a training names its strategy"
        assert job.student is not None, "a training names its student"
        tasks = make_tasks(data.num_classes, job.num_tasks, job.class_order, job.seed)
        teachers = self.teachers(check, job, data)
        before: TappedModel | None = None
        for number in (1, 2):
            old, seen = tasks.seen(number - 1), tasks.seen(number)
            settings = job.student if before is None else job.student.model_copy(update={"pretrained": False})
            student = build_model(settings, seen, data.image_size)
            freeze(student, settings.freeze, settings.freeze_bn)
            models: dict[str, TappedModel] = {STUDENT: student}
            contexts: dict[str, Context] = {STUDENT: measured(student, data)}
            if before is not None:
                grow(student, before.state_dict())
                if job.strategy.prev_kd_weight > 0:
                    models[PREVIOUS], contexts[PREVIOUS] = before, measured(before, data)
            for k, (model, context) in enumerate(teachers):
                models[teacher(k)], contexts[teacher(k)] = copy.deepcopy(model), context
            cut: Any = (data, tasks, number, job.strategy.replay_capacity)
            parts = {TRAIN: task_data(*cut, job.strategy.replay_ratio, job.seed)}
            if job.strategy.balance_epochs and number > 1:
                parts[BALANCE] = balanced_data(*cut, job.seed)
            for phase, part in parts.items():
                labels = torch.tensor(tasks.order[:seen])
                method = Incremental(job.strategy, old, seen, phase, None, labels)
                method.teachers = len(teachers)
                context = context_of(models, contexts, part)
                kept = data.num_classes  # a chain's logits are of all classes
                rehearse(StandIns(models, context), context, method, part, job, method.plan(), kept)
            before = student
        return {}

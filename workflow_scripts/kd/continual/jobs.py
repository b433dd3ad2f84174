"""A class-incremental run: one job that trains task after task, each from the state that the one before left.

What is under way lies in the folder `unfinished` of the run: the state after each finished task and the resume file of
the current one, so that an interruption costs at most an epoch. It goes away on success.
"""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.continual.ewc import Anchors, fisher, grow
from kd.continual.method import BALANCE, PREVIOUS, TRAIN, Incremental
from kd.continual.tasks import Part, Tasks, balanced_data, make_tasks, task_data
from kd.engine.checkpoint import ResumeFile, save_state
from kd.engine.data import Data, load_data
from kd.engine.fixed_view import read_outputs
from kd.engine.flops import FlopCounter
from kd.engine.history import Result
from kd.engine.jobs.files import Files
from kd.engine.jobs.trainings import record_of
from kd.engine.jobs.workbench import Workbench
from kd.engine.modes import choose_modes
from kd.engine.precision import set_kernels, training_device
from kd.engine.seeds import derived_seed
from kd.engine.teachers import FrozenForward
from kd.engine.team import Team, deploy, equip
from kd.engine.training import OnEpoch, Training
from kd.methods.contract import STUDENT, stages_of, teacher
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.models.freezing import freeze, refuse_frozen_draws
from kd.models.weights import load_trained, save_weights
from kd.record.epochs import write_metrics
from kd.record.run_json import write_settings
from kd.study.continual import ContinualJobSettings, Strategy
from kd.study.digests import canonical, text_digest
from kd.study.made import UNFINISHED
from kd.tools.files import atomic_path, write_json

log = logging.getLogger(__name__)


State = dict[str, Any]
"""What a finished task leaves: student, EWC anchors, history, cost, record."""


@dataclass
class Task:
    """One task of a run, with what the task before left."""

    job: ContinualJobSettings
    files: Files
    number: int
    """From 1."""
    data: Data
    """All classes, under their own labels."""
    tasks: Tasks
    before: State | None

    @property
    def strategy(self) -> Strategy:
        """Return what is done against forgetting."""
        return _strategy(self.job)

    @property
    def path(self) -> Path:
        """Return where the state after this task is kept while the run is under way."""
        return self.files.folder / UNFINISHED / f"task{self.number}.pt"

    @cached_property
    def stamp(self) -> str:
        """Return a digest of everything that this task depends on, the tasks before included."""
        before = self.before["stamp"] if self.before else None
        return text_digest(canonical([self.job.model_dump(mode="json"), self.files.code, self.files.digest(), before]))

    def done(self) -> State | None:
        """Return the state after this task if an attempt with the same settings, code and inputs finished it."""
        return ResumeFile(self.path, self.stamp).load()

    @property
    def old(self) -> int:
        """Return how many classes were known before."""
        return self.tasks.seen(self.number - 1)

    @property
    def seen(self) -> int:
        """Return how many classes are known afterwards."""
        return self.tasks.seen(self.number)

    @property
    def phases(self) -> list[str]:
        """Return what the task consists of: training, and class-balanced fine-tuning of all but the first."""
        return [TRAIN, BALANCE] if self.strategy.balance_epochs and self.number > 1 else [TRAIN]

    def seed(self, purpose: str) -> int:
        """Return a seed of this task alone."""
        return derived_seed(self.job.seed, f"task {self.number}/{purpose}")

    def resume(self, phase: str) -> ResumeFile:
        """Return the resume file of a phase."""
        return ResumeFile(self.path.with_name(f"task{self.number}_{phase}.pt"), self.stamp)

    def part(self, phase: str) -> Data:
        """Return the images of a phase."""
        cut = (self.data, self.tasks, self.number, self.strategy.replay_capacity)
        if phase == BALANCE:
            return balanced_data(*cut, self.job.seed)
        return task_data(*cut, self.strategy.replay_ratio, self.job.seed)


def train_run(job: ContinualJobSettings, files: Files, on_epoch: OnEpoch) -> Result:
    """Train a student on all tasks and write its weights after each of them, history and record."""
    set_kernels(job.recipe)
    data = load_data(files.data, job, training_device())
    tasks = make_tasks(data.num_classes, job.num_tasks, job.class_order, job.seed)
    files.folder.mkdir(parents=True, exist_ok=True)
    write_settings(files.folder, job.model_dump(mode="json"))
    whole = Result()
    states: list[State] = []
    for number in range(1, len(tasks) + 1):
        task = Task(job, files, number, data, tasks, states[-1] if states else None)
        states.append(task.done() or _train_task(task, _numbered(on_epoch, number, len(whole.rows))))
        _add(whole, states[-1], number)
    _leave(files, whole, states)
    return whole


def planned_epochs(job: ContinualJobSettings) -> int:
    """Return how many epochs all tasks take."""
    return job.num_tasks * job.recipe.epochs + (job.num_tasks - 1) * _strategy(job).balance_epochs


def describe(job: ContinualJobSettings) -> str:
    """Return one line on what is learnt."""
    assert job.student is not None, "a training names its student"
    return f"{_strategy(job).name}: {job.student.arch}, {job.num_tasks} tasks, seed {job.seed}"


def _strategy(job: ContinualJobSettings) -> Strategy:
    assert job.strategy is not None, "a training names its strategy"
    return job.strategy


# --- making ready ---------------------------------------------------------------------------------


def _team(task: Task) -> Team:
    job, size = task.job, task.data.image_size
    assert job.student is not None, "a task trains a student"
    # the same draws in every task, so that an output's initial weights do not depend on when it is learnt
    torch.manual_seed(derived_seed(job.seed, STUDENT))
    settings = job.student if task.before is None else job.student.model_copy(update={"pretrained": False})
    models: dict[str, TappedModel] = {STUDENT: build_model(settings, task.seen, size)}
    freeze(models[STUDENT], settings.freeze, settings.freeze_bn)
    if task.before is None:
        refuse_frozen_draws(models[STUDENT])
    if task.before is not None:
        grow(models[STUDENT], task.before["student"])
        if task.strategy.prev_kd_weight > 0:
            models[PREVIOUS] = build_model(settings, task.old, size)
            models[PREVIOUS].load_state_dict(task.before["student"])
    for k, network in enumerate(job.teachers):
        models[teacher(k)] = build_model(network, task.data.num_classes, size)
        load_trained(models[teacher(k)], task.files.teachers[k], task.data.normalisation)
    device = training_device()
    return Team(models, device, dict.fromkeys(models, choose_modes(job.recipe, device)))


def _bench(task: Task, team: Team, phase: str) -> Workbench:
    """Return the team with images and method of a phase."""
    data, job = task.part(phase), task.job
    labels = torch.tensor(task.tasks.order[: task.seen], device=team.device)
    anchors = _anchors(task, team.device)
    method = Incremental(task.strategy, len(job.teachers), task.old, task.seen, phase, anchors, labels)
    team, context = deploy(team, method, data.image_size, data.train.labels, data.num_classes)
    equip(team, method, context)
    return Workbench(job, data, team, method, method.wants(), team.modes[STUDENT].trained.on(team.device))


def _anchors(task: Task, device: torch.device) -> Anchors | None:
    kept = task.before and task.before["anchors"]
    return Anchors(**kept).to(device) if kept and task.strategy.ewc_weight > 0 else None


def _frozen_forward(task: Task, bench: Workbench) -> FrozenForward:
    """Return what runs the untrained roles, with a chain's logits where the strategy reads them."""
    data, logits = bench.data, None
    if task.files.outputs:
        assert isinstance(data.train, Part)
        logits = read_outputs(task.files.outputs, task.data.digest)[:, data.train.positions].to(bench.team.device)
    return FrozenForward(bench.team, bench.precision, bench.wants, data.train, data.augmenter, logits)


# --- training and what it leaves ------------------------------------------------------------------


def _train_task(task: Task, on_epoch: OnEpoch) -> State:
    """Train all phases of a task and keep the state that the next task starts from."""
    team = _team(task)
    parts: list[Result] = []
    for phase in task.phases:
        bench = _bench(task, team, phase)
        parts.append(_train(task, bench, phase, _shifted(on_epoch, sum(len(part.rows) for part in parts))))
    student = bench.team.models[STUDENT]
    save_weights(student, task.path.with_suffix(".safetensors"), {"task": str(task.number)})
    with FlopCounter() as counter:
        anchors = _anchors_after(task, bench)
    state = {
        "stamp": task.stamp,
        "student": parts[-1].last,
        "anchors": anchors.state() if anchors else None,
        "rows": [row for part in parts for row in part.rows],
        "seconds": sum(part.seconds for part in parts),
        "flops": sum(part.flops for part in parts) + counter.total,
        "record": record_of(bench, task.files, parts[-1]),
        "task": _record(task),
    }
    save_state(task.path, state)
    for phase in task.phases:
        task.resume(phase).remove()
    return state


def _train(task: Task, bench: Workbench, phase: str, on_epoch: OnEpoch) -> Result:
    """Train a phase, or take up a resume file of it; one that is over gives back what it left."""
    training = Training(
        bench.team,
        bench.method,
        bench.data,
        task.job.recipe,
        bench.precision,
        task.seed(phase),
        task.resume(phase),
        on_epoch,
        _frozen_forward(task, bench),
    )
    result = training.run(stages_of(bench.method))
    bench.team.models[STUDENT].load_state_dict(result.last)
    return result


def _shifted(on_epoch: OnEpoch, before: int) -> OnEpoch:
    """Return the same with epochs counted on from those before."""
    return lambda row: on_epoch({**row, "epoch": row["epoch"] + before})


def _numbered(on_epoch: OnEpoch, task: int, before: int) -> OnEpoch:
    return _shifted(lambda row: on_epoch({**row, "task": task}), before)


def _add(whole: Result, state: State, task: int) -> None:
    first = len(whole.rows) + 1
    whole.rows += [{**row, "epoch": first + k, "task": task} for k, row in enumerate(state["rows"])]
    whole.last, whole.best_epoch = state["student"], len(whole.rows)
    whole.seconds += state["seconds"]
    whole.flops += state["flops"]


def _leave(files: Files, whole: Result, states: list[State]) -> None:
    """Copy the weights to their place, write history and record; what was under way is dropped by a later job."""
    unfinished, checkpoints = files.folder / UNFINISHED, files.folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    for number in range(1, len(states) + 1):
        # copied and not moved: until the workflow has noted that all is done, another attempt may need them again
        with atomic_path(checkpoints / f"task{number}.safetensors") as temporary:
            shutil.copyfile(unfinished / f"task{number}.safetensors", temporary)
    write_metrics(files.folder / "metrics.csv", whole.rows)
    totals = {
        "seconds": {"train": round(whole.seconds, 3)},
        "flops": {"train": whole.flops},
        "epochs": len(whole.rows),
        "best_epoch": whole.best_epoch,
        "tasks": [state["task"] | {"seconds": round(state["seconds"], 3)} for state in states],
    }
    write_json(files.folder / "run.json", states[-1]["record"] | totals)


def _anchors_after(task: Task, bench: Workbench) -> Anchors | None:
    """Return the EWC penalty of all tasks up to this one; after the last task nobody needs it."""
    if task.strategy.ewc_weight == 0 or task.number == len(task.tasks):
        return None
    student = bench.team.models[STUDENT]
    own = Anchors.of_task(fisher(student, _fisher_images(task, bench)), dict(student.named_parameters()))
    earlier = _anchors(task, bench.team.device)
    return own if earlier is None else earlier.plus(own)


def _fisher_images(task: Task, bench: Workbench) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a seeded choice of the task's own training images, not augmented."""
    store = task_data(task.data, task.tasks, task.number, 0, None, task.job.seed).train
    draws = torch.Generator().manual_seed(task.seed("fisher"))
    order = torch.randperm(len(store), generator=draws)[: task.strategy.ewc_images]
    for images, labels, _ in store.batches(order, task.job.recipe.eval_batch_size):
        layout = bench.team.modes[STUDENT].trained.memory_format
        yield bench.data.augmenter.plain(images).contiguous(memory_format=layout), labels


def _record(task: Task) -> dict[str, Any]:
    """Return what the protocol drew: the classes, and which images are replayed of each."""
    own = task_data(task.data, task.tasks, task.number, 0, None, task.job.seed).train
    cut = balanced_data(task.data, task.tasks, task.number, task.strategy.replay_capacity, task.job.seed).train
    assert isinstance(cut, Part)
    kept = cut.positions[len(own) :]
    counts = torch.bincount(task.tasks.outputs(task.data.train.labels).cpu()[kept], minlength=task.old)
    return {
        "number": task.number,
        "classes": list(task.tasks.classes(task.number)),
        "images": len(own),
        "kept_of_each_class": counts.tolist()[: task.old],
        "kept_digest": text_digest(canonical(kept.tolist())),
    }

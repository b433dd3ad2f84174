"""The training of one task: from the state that the task before left to the one that the next starts from."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from kd.continual.ewc import Anchors, fisher, grow
from kd.continual.method import BALANCE, PREVIOUS, TRAIN, Incremental
from kd.continual.tasks import Part, Tasks, balanced_data, make_tasks, task_data
from kd.engine.checkpoint import ResumeFile, load_state, save_state
from kd.engine.data import Data, load_data
from kd.engine.feed import derived_seed
from kd.engine.history import Row, write_metrics
from kd.engine.jobs import Files, Workbench, record_of
from kd.engine.outputs import read_outputs
from kd.engine.precision import choose_precision, make_deterministic, training_device
from kd.engine.teachers import Onlookers
from kd.engine.team import Team, deploy
from kd.engine.training import OnEpoch, Result, Training
from kd.methods.contract import STUDENT, teacher
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.models.freezing import freeze
from kd.models.weights import load_weights, save_weights
from kd.spec.continual import Strategy, TaskJob
from kd.spec.digests import canonical, text_digest
from kd.spec.files import atomic_write, write_json

log = logging.getLogger(__name__)


@dataclass
class Task:
    """A task made ready: all training images, the cut into tasks, what the tasks before left."""

    job: TaskJob
    files: Files
    number: int
    strategy: Strategy
    data: Data
    """All classes, under their own labels."""
    tasks: Tasks
    before: dict[str, Any] | None
    """State after the task before: student, and with EWC its anchors."""

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

    def part(self, phase: str) -> Data:
        """Return the images of a phase."""
        cut = (self.data, self.tasks, self.number, self.strategy.replay_capacity)
        if phase == BALANCE:
            return balanced_data(*cut, self.job.seed)
        return task_data(*cut, self.strategy.replay_ratio, self.job.seed)


def train_task(job: TaskJob, files: Files, on_epoch: OnEpoch) -> Result:
    """Train a student on one task and write its weights, the state for the next task, history and record."""
    task = open_task(job, files)
    files.folder.mkdir(parents=True, exist_ok=True)
    atomic_write(files.folder / "config.yaml", yaml.safe_dump(job.model_dump(mode="json"), sort_keys=True))
    team, whole = _team(task), Result()
    for phase in task.phases:
        bench = _bench(task, team, phase)
        _add(whole, _train(task, bench, phase, _numbered(on_epoch, len(whole.rows))))
    _leave(task, bench, whole)
    return whole


def open_task(job: TaskJob, files: Files) -> Task:
    """Load images and the state before, and cut the classes into tasks."""
    make_deterministic(job.recipe.deterministic)
    assert job.task is not None, "a training names its task"
    assert job.strategy is not None, "a training names its strategy"
    assert (files.previous is None) == (job.task == 1), "every task but the first starts from a state"
    data = load_data(files.data, job, training_device())
    tasks = make_tasks(data.num_classes, job.num_tasks, job.class_order, job.seed)
    before = load_state(files.previous) if files.previous else None
    return Task(job, files, job.task, job.strategy, data, tasks, before)


def planned_epochs(job: TaskJob) -> int:
    """Return how many epochs a task takes."""
    assert job.task is not None, "a training names its task"
    assert job.strategy is not None, "a training names its strategy"
    return job.recipe.epochs + (job.strategy.balance_epochs if job.task > 1 else 0)


def describe(job: TaskJob) -> str:
    """Return one line on what is learnt."""
    assert job.student is not None, "a training names its student"
    assert job.strategy is not None, "a training names its strategy"
    return f"{job.strategy.name}: {job.student.arch}, task {job.task} of {job.num_tasks}, seed {job.seed}"


# --- making ready ---------------------------------------------------------------------------------


def _team(task: Task) -> Team:
    job, size = task.job, task.data.image_size
    assert job.student is not None, "a task trains a student"
    # the same draws in every task, so that an output's initial weights do not depend on when it is learnt
    torch.manual_seed(derived_seed(job.seed, STUDENT))
    settings = job.student if task.before is None else job.student.model_copy(update={"pretrained": False})
    models: dict[str, TappedModel] = {STUDENT: build_model(settings, task.seen, size)}
    freeze(models[STUDENT], settings.freeze, settings.freeze_bn)
    if task.before is not None:
        grow(models[STUDENT], task.before["student"])
        if task.strategy.prev_kd_weight > 0:
            models[PREVIOUS] = build_model(settings, task.old, size)
            models[PREVIOUS].load_state_dict(task.before["student"])
    for k, network in enumerate(job.teachers):
        models[teacher(k)] = build_model(network, task.data.num_classes, size)
        load_weights(models[teacher(k)], task.files.teachers[k])
    return Team(models, training_device(), job.recipe.channels_last)


def _bench(task: Task, team: Team, phase: str) -> Workbench:
    """Return the team with images and method of a phase."""
    data, job = task.part(phase), task.job
    labels = torch.tensor(task.tasks.order[: task.seen], device=team.device)
    anchors = _anchors(task, team.device)
    method = Incremental(task.strategy, task.old, task.seen, phase, anchors, labels)
    method.teachers = len(job.teachers)
    team, context = deploy(team, method, data.image_size, data.train.labels, data.num_classes, job.recipe.channels_last)
    method.bind(context)
    team.taps.update(method.role_taps)
    return Workbench(job, data, team, method, choose_precision(job.recipe.precision, team.device))


def _anchors(task: Task, device: torch.device) -> Anchors | None:
    kept = task.before and task.before["anchors"]
    return Anchors(**kept).to(device) if kept and task.strategy.ewc_weight > 0 else None


def _onlookers(task: Task, bench: Workbench) -> Onlookers:
    """Return what runs the untrained roles, with a chain's logits where the strategy reads them."""
    data, method = bench.data, bench.method
    onlookers = Onlookers(bench.team, bench.precision, method.needs(), data.train, data.augmenter)
    if task.files.outputs:
        assert isinstance(data.train, Part)
        logits = read_outputs(task.files.outputs, task.data.digest)
        onlookers.fixed_logits = logits[:, data.train.positions].to(bench.team.device)
    return onlookers


# --- training and what it leaves ------------------------------------------------------------------


def _train(task: Task, bench: Workbench, phase: str, on_epoch: OnEpoch) -> Result:
    """Train a phase, or take up a resume file of it; one that is over gives back what it left."""
    job, files = task.job, task.files
    stamp = text_digest(canonical([job.model_dump(mode="json"), files.code, files.digest()]))
    training = Training(
        bench.team,
        bench.method,
        bench.data,
        job.recipe,
        bench.precision,
        task.seed(phase),
        ResumeFile(_resume_path(files, phase), stamp),
        on_epoch,
        _onlookers(task, bench),
    )
    result = training.run(bench.method.plan())
    bench.team.models[STUDENT].load_state_dict(result.last)
    return result


def _resume_path(files: Files, phase: str) -> Any:
    return files.folder / ("resume.pt" if phase == TRAIN else f"resume_{phase}.pt")


def _numbered(on_epoch: OnEpoch, before: int) -> OnEpoch:
    """Return the same with epochs counted on from those of the phase before."""
    return lambda row: on_epoch({**row, "epoch": row["epoch"] + before})


def _add(whole: Result, phase: Result) -> None:
    rows: list[Row] = [{**row, "epoch": row["epoch"] + len(whole.rows)} for row in phase.rows]
    whole.rows.extend(rows)
    whole.last, whole.best_epoch = phase.last, len(whole.rows)
    whole.seconds += phase.seconds
    whole.flops += phase.flops


def _leave(task: Task, bench: Workbench, result: Result) -> None:
    files, student = task.files, bench.team.models[STUDENT]
    metadata = {"arch": student.arch, "epoch": str(len(result.rows)), "task": str(task.number)}
    anchors = _anchors_after(task, bench)
    save_weights(student, files.folder / "checkpoints" / "last.safetensors", metadata)
    save_state(files.folder / "state.pt", {"student": result.last, "anchors": anchors.state() if anchors else None})
    write_metrics(files.folder / "metrics.csv", result.rows)
    write_json(files.folder / "run.json", record_of(bench, files, result) | {"task": _record(task)})
    (files.folder / "failure.json").unlink(missing_ok=True)
    for phase in (TRAIN, BALANCE):
        _resume_path(files, phase).unlink(missing_ok=True)


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
        yield bench.data.augmenter.plain(images).contiguous(memory_format=bench.team.memory_format), labels


def _record(task: Task) -> dict[str, Any]:
    """Return what the protocol drew: the classes, and which images are replayed of each."""
    own = task_data(task.data, task.tasks, task.number, 0, None, task.job.seed).train
    cut = balanced_data(task.data, task.tasks, task.number, task.strategy.replay_capacity, task.job.seed).train
    assert isinstance(cut, Part)
    kept = cut.positions[len(own) :]
    counts = torch.bincount(task.tasks.outputs(task.data.train.labels).cpu()[kept], minlength=task.old)
    return {
        "number": task.number,
        "of": len(task.tasks),
        "classes": list(task.tasks.classes(task.number)),
        "class_order": list(task.tasks.order),
        "images": len(own),
        "kept_of_each_class": counts.tolist()[: task.old],
        "kept_digest": text_digest(canonical(kept.tolist())),
    }

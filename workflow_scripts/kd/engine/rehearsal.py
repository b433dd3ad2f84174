"""What can be known before the first training: that networks take the images, and that methods take the networks.

Every training is made ready as its job will do it, and takes one step of each update on a few of its images. A network
is built and measured once; in the steps it does not run: random numbers of the measured shapes stand for what it makes
of the images. So a method costs milliseconds, however large its networks are.
"""

import copy
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.data.packed import Packed
from kd.data.wants import Wants
from kd.engine.checkpoint import ResumeFile
from kd.engine.data import Data, cut
from kd.engine.evaluation import evaluates_heads
from kd.engine.modes import choose_modes
from kd.engine.outlook import Key, Probe, Stretch, as_rows, cost_of
from kd.engine.precision import Precision, check_capture, training_device
from kd.engine.resolve import build_method, stages_of_job
from kd.engine.teachers import FrozenForward, is_fixed
from kd.engine.team import Team, equip, measure
from kd.engine.training import Training
from kd.methods.contract import STUDENT, Batch, Context, Deploys, Heads, Method, Output, is_teacher, peer, teacher
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.models.freezing import freeze, refuse_frozen_draws, refuse_unfinished
from kd.models.reuse import deployment, redeploy
from kd.schema.config import ModelSettings
from kd.study.checks import Check, cost_key
from kd.study.digests import canonical
from kd.study.job_settings import JobSettings
from kd.tools.errors import UserError

CPU = torch.device("cpu")
PLAIN = Precision("fp32", CPU)
Measured = tuple[TappedModel, Context]
"""A network, and the shapes of its taps under the role 'network'."""
NETWORK = "network"
ITEMS = 4
"""Images, or groups of them, of a step."""
BROKEN = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)
"""What a step raises that nobody foresaw; UserError is a ValueError."""


class StandIns(Team):
    """A team whose networks do not run: what they make of images is random numbers of the measured shapes."""

    def __init__(self, models: Mapping[str, TappedModel], context: Context) -> None:
        super().__init__(models, CPU)
        self.shapes = context.shapes
        self.asked: Counter[tuple[str, bool]] = Counter()
        """By role and whether gradients went back: the images that it was asked about."""

    def make_ready(self, roles: Iterable[str], images: Tensor, precision: Precision) -> None:
        """Fold no network, for none runs."""

    def _answer(self, role: str, images: Tensor, precision: Precision, with_grad: bool, taps: Sequence[str]) -> Output:
        model = self.models[role]
        self.asked[role, with_grad] += len(images)
        found = {tap: _drawn((len(images), *self.shapes[role][tap]), with_grad) for tap in taps}
        return Output(_drawn((len(images), model.num_classes), with_grad), found, model.classifier)


def _drawn(shape: Sequence[int], taught: bool) -> Tensor:
    """Return what looks like a network's output; where it is trained, no leaf, so that losses may write over it."""
    return torch.randn(tuple(shape)).requires_grad_(taught) * 1.0


class Told(Exception):
    """The cause stands in an earlier sentence."""


class Networks:
    """Networks with their measured shapes, each built once and kept as long as a check is to come that uses it."""

    def __init__(self, checks: Sequence[Check], probe: Probe | None = None) -> None:
        self._probe = probe
        self._waiting = Counter(use for check in checks for use in _uses(check))
        self._kept: dict[tuple[str, ...], Measured | None] = {}

    def network(self, check: Check, settings: ModelSettings, data: Data) -> Measured:
        """Return a network, frozen as its settings say, and the shapes of its taps under the role 'network'.

        Errors: UserError for one that cannot be built, the first time; Told for the same one later.
        """
        use = _use(check, settings)
        if use not in self._kept:
            self._kept[use] = None
            model = build_model(settings, data.num_classes, data.image_size)
            freeze(model, settings.freeze, settings.freeze_bn)
            refuse_frozen_draws(model)
            if not settings.train:
                refuse_unfinished(model.origin)
            self._kept[use] = (model, measured(model, data))
            if self._probe is not None:
                self._probe.look(use, model, data.image_size, check.job().recipe)
        found = self._kept[use]
        if found is None:
            raise Told
        return found

    def done(self, check: Check) -> None:
        """Let go of what no later check uses."""
        for use in _uses(check):
            self._waiting[use] -= 1
            if not self._waiting[use]:
                self._kept.pop(use, None)


def _uses(check: Check) -> list[tuple[str, ...]]:
    job = check.job()
    return [_use(check, settings) for settings in (job.student, *job.teachers) if settings is not None]


def _use(check: Check, settings: ModelSettings) -> tuple[str, ...]:
    built = settings.model_dump(mode="json", exclude={"recipe", "classes"})
    return check.data, canonical(check.settings["dataset"].get("class_subset")), canonical(built)


def measured(model: TappedModel, data: Data) -> Context:
    """Return the shapes of a network's taps, under the role 'network'."""
    return measure(Team({NETWORK: model}, CPU), data.image_size, data.train.labels, data.num_classes)


def context_of(found: Mapping[str, Measured], data: Data) -> tuple[dict[str, TappedModel], Context]:
    """Return networks by role and the measures of the team that they are; one in two roles is copied for the second."""
    models: dict[str, TappedModel] = {}
    for role, (model, _) in found.items():
        models[role] = copy.deepcopy(model) if any(model is other for other in models.values()) else model

    def by_role(key: str) -> dict[str, Any]:
        return {role: getattr(context, key)[NETWORK] for role, (_, context) in found.items()}

    return models, Context(
        num_classes=data.num_classes,
        labels=data.train.labels,
        shapes=by_role("shapes"),
        taps=by_role("taps"),
        stages=by_role("stages"),
        norms=by_role("norms"),
        models=models,
        image_size=data.image_size,
    )


class Rehearsal:
    """Goes through the checks of an experiment and gathers a sentence for each training that could not be made."""

    def __init__(self, checks: Sequence[Check], probe: Probe | None = None) -> None:
        self.checks, self.probe = checks, probe
        self.networks = Networks(checks, probe)
        self._steps: dict[str, tuple[list[Stretch], dict[str, Key]]] = {}
        """By training: what its epochs consist of, and by role which network it is."""
        self._deployed: dict[int, dict[str, str]] = {}
        """What beside its architecture the network of each finished check is deployed with."""
        self._folders: dict[str, Packed] = {}
        self._data: dict[tuple[str, ...], Data | None] = {}

    def run(self) -> list[str]:
        """Return one sentence for each misfit: which training, why, and what is possible."""
        misfits: dict[str, str] = {}
        for place, check in enumerate(self.checks):
            if check.name not in misfits:
                try:
                    self._deployed[place] = self._check(check)
                except Told:
                    pass
                except UserError as error:
                    misfits[check.name] = str(error)
                except BROKEN as error:
                    reason = " ".join(str(error).split()) or "no message"
                    misfits[check.name] = f"a training step is not possible: {type(error).__name__}: {reason}"
            self.networks.done(check)
        return [f"{name}: {reason}" for name, reason in misfits.items()]

    def _check(self, check: Check) -> dict[str, str]:
        job = check.job()
        if not check.gpus:  # then it runs on what there is here
            check_capture(job.recipe, training_device())
            choose_modes(job.recipe, training_device())
        splits = [self._images(check, job, seed) for seed in check.seeds]
        return self.rehearsed(check, job, splits[0])

    def rehearsed(self, check: Check, job: JobSettings, data: Data) -> dict[str, str]:
        """Make a training ready, take a step of each of its updates, and return what its network is deployed with."""
        found = {teacher(k): entry for k, entry in enumerate(self.teachers(check, job, data))}
        method = build_method(job.method, len(job.teachers))
        wants = method.wants()
        if job.student is not None:
            student = self.networks.network(check, job.student, data)
            found = {STUDENT: student, **found}
            found |= {peer(k): student for k in range(1, wants.peers + 1)}
        models, context = context_of(deployed(found, method, data), data)
        with untouched(models):
            stretches = rehearse(StandIns(models, context), context, method, wants, data, job)
        self.note(check, job, models, stretches)
        return deployment(models[STUDENT]) if STUDENT in models else {}

    def note(self, check: Check, job: JobSettings, roles: Iterable[str], stretches: list[Stretch]) -> None:
        """Note what a training's epochs consist of; peers and earlier selves are networks of the student's kind."""
        taught = {teacher(k): _use(check, settings) for k, settings in enumerate(job.teachers)}
        own = {} if job.student is None else dict.fromkeys(roles, _use(check, job.student))
        self._steps[cost_key(check.settings)] = (stretches, {**own, **taught})

    def costs(self) -> dict[str, Any]:
        """Return what checked.json says of what trainings will cost, once all were gone through with a probe."""
        assert self.probe is not None, "costs are asked of a rehearsal with a probe"
        places = {key: place for place, key in enumerate(self.probe.paces)}
        trainings = {key: cost_of(stretches, networks, places) for key, (stretches, networks) in self._steps.items()}
        return {"networks": as_rows(self.probe.paces), "trainings": trainings}

    def teachers(self, check: Check, job: JobSettings, data: Data) -> list[Measured]:
        """Return the networks that teach, as their trainings leave them, with the measures of each."""
        found: list[Measured] = []
        for settings, place in zip(job.teachers, check.taught_by, strict=True):
            model, context = self.networks.network(check, settings, data)
            if deployed_with := self._deployed.get(place):
                model = redeploy(copy.deepcopy(model), deployed_with, data.image_size)
                context = measured(model, data)
            found.append((model, context))
        return found

    def _images(self, check: Check, job: JobSettings, seed: int) -> Data:
        """Return the images of a split, none of them read yet; splits that cannot be made are told once."""
        share = None if job.student is None else job.student.classes
        key = (check.data, canonical(job.dataset), str(share), str(seed), str(job.recipe.augmentation))
        if key not in self._data:
            self._data[key] = None
            if check.data not in self._folders:
                self._folders[check.data] = Packed(check.data, unchecked=True)
            recipe = job.recipe.model_copy(update={"workers": 0})
            changes = {"dataset": {**job.dataset, "resident_limit_mb": 0}, "recipe": recipe, "split_seed": seed}
            self._data[key] = cut(self._folders[check.data], job.model_copy(update=changes), CPU)
        found = self._data[key]
        if found is None:
            raise Told
        return found


def deployed(found: Mapping[str, Measured], method: Method, data: Data) -> dict[str, Measured]:
    """Return a team's networks after the method changed its student, as kd.engine.team.deploy does."""
    if STUDENT not in found or not isinstance(method, Deploys):
        return dict(found)
    models, context = context_of(found, data)
    # a method changes what it is given, and the next method is to find it as it was
    student = method.deployed(copy.deepcopy(models[STUDENT]), context)
    return {**found, STUDENT: (student, measured(student, data))}


def rehearse(
    team: StandIns,
    context: Context,
    method: Method,
    wants: Wants,
    data: Data,
    job: JobSettings,
    kept: int | None = None,
) -> list[Stretch]:
    """Build a method's modules and take one step of every update of each stage; a misfit is a UserError.

    Returned is what the training's epochs consist of. `kept` is the number of classes of kept logits where they are of
    other networks than the job's teachers.
    """
    found = []
    equip(team, method, replace(context, batch_size=job.recipe.batch_size))
    recipe = job.recipe.model_copy(update={"batch_size": min(ITEMS, job.recipe.batch_size)})
    # what teachers make of the fixed view of every image, without the memory of it
    logits = torch.zeros(max(1, len(job.teachers)), 1, kept or data.num_classes).expand(-1, len(data.train), -1)
    images = torch.zeros(1, 1, 1, 1).expand(len(data.train), 3, data.image_size, data.image_size)
    frozen = FrozenForward(team, PLAIN, wants, data.train, data.augmenter, logits, images)
    nowhere = ResumeFile(Path(os.devnull), "")
    training = Training(team, method, data, recipe, PLAIN, job.seed, nowhere, lambda row: None, frozen)
    training.feed.most = 1
    for stage in stages_of_job(job, method):
        # no validation image is looked at
        training.start([replace(stage, keeps="", recipe={**stage.recipe, "batch_size": recipe.batch_size})])
        training.begin_epoch()
        batch = next(training.feed.epoch())
        team.asked.clear()
        training.step(batch, training.frozen.outputs(batch), training.frozen.cost(len(batch.labels)))
        found.append(stretch_of(training, team, wants, batch))
        if evaluates_heads(stage) and isinstance(method, Heads):
            with torch.no_grad():
                method.heads(team.forward(batch.images, PLAIN), team.extra)
    return found


def stretch_of(training: Training, team: StandIns, wants: Wants, batch: Batch) -> Stretch:
    """Return what the epochs of a stage consist of, of which one step was just taken."""
    run, data = training.stage_run, training.data
    always_the_same = is_fixed(run.recipe) and wants.groups is None
    return Stretch(
        epochs=run.epochs,
        images=len(data.train),
        items=len(batch.labels) // batch.group,
        beside=run.flops[len(batch.labels)],
        passes=Counter(team.asked),
        once=frozenset(role for role in run.frozen if always_the_same and is_teacher(role) and not team.taps[role]),
        validation=len(data.validation.labels),
    )


@contextmanager
def untouched(models: Mapping[str, TappedModel]) -> Iterator[None]:
    """Give networks back as they were but for their weights: what trains, and no gradients."""
    before = [(p, p.requires_grad) for model in models.values() for p in model.parameters()]
    frozen = [(model, dict(vars(model))) for model in models.values()]
    try:
        yield
    finally:
        for p, trained in before:
            p.grad = None
            p.requires_grad_(trained)
        for model, attributes in frozen:
            vars(model).update(attributes)
            model.train()

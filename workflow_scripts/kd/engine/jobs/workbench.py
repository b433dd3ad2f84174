"""A job made ready: images on the device, networks built and measured, the method's modules beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kd.data.wants import Wants
from kd.engine.checkpoint import load_state
from kd.engine.data import Data, load_data
from kd.engine.jobs.files import Files
from kd.engine.modes import Modes, choose_modes
from kd.engine.precision import Precision, check_capture, set_kernels, training_device
from kd.engine.resolve import build_method
from kd.engine.seeds import derived_seed
from kd.engine.team import Team, deploy, equip
from kd.methods.contract import STUDENT, Method, is_teacher, peer, teacher
from kd.models.base import Normalisation, Origin, TappedModel
from kd.models.build import build_model
from kd.models.freezing import freeze, refuse_frozen_draws
from kd.models.reuse import redeploy
from kd.models.weights import finished_normalisation, load_trained, read_state
from kd.schema.cards import card
from kd.study.job_settings import JobSettings
from kd.tools.errors import UserError
from kd.tools.files import read_json


@dataclass
class Workbench:
    """A job made ready: data on the device, team built, method fitted to it."""

    job: JobSettings
    data: Data
    team: Team
    method: Method
    wants: Wants
    precision: Precision
    origin: Origin | None = None
    """What the student was built from, None of one that was initialised afresh."""


def prepare(job: JobSettings, files: Files, companion: Workbench | None = None) -> Workbench:
    """Load data and networks, measure shapes, build the method's modules; every draw is seeded for its purpose.

    A companion trained in the same process lends its images and its teachers where they are the same.
    """
    device = training_device()
    check_capture(job.recipe, device)
    set_kernels(job.recipe)
    data = _borrowed_data(job, companion) or load_data(files.data, job, device)
    method = build_method(job.method, len(job.teachers))
    wants = method.wants()
    models = _models(job, files, data, wants.peers)
    if companion is not None and companion.job.teachers == job.teachers:
        models |= {role: model for role, model in companion.team.models.items() if is_teacher(role)}
    origin = models[STUDENT].origin if STUDENT in models else None
    modes = _modes(job, files, models, device)
    team = Team(models, device, modes)
    torch.manual_seed(derived_seed(job.seed, "extra"))
    team, context = deploy(team, method, data.image_size, data.train.labels, data.num_classes)
    equip(team, method, replace(context, batch_size=job.recipe.batch_size))
    if files.pretrained is not None:
        _load_pretrained(job, team.extra, files.pretrained)
    if files.previous is not None:
        before = load_state(files.previous)
        team.load_state(before["team"])
        for role, own in before.get("normalised", {}).items():
            team.models[role].see_as(Normalisation(**own), data.normalisation)
    # the scaler's: that of the network that is trained, if there is one
    precision = modes[next(iter(modes))].trained.on(device)
    return Workbench(job, data, team, method, wants, precision, origin)


def _modes(job: JobSettings, files: Files, models: Mapping[str, TappedModel], device: torch.device) -> dict[str, Modes]:
    """Return by role how networks run; peers run as the student does."""
    networks = [STUDENT] if job.student is not None else []
    networks += [teacher(k) for k in range(len(job.teachers))]
    choices = [read_json(path) for path in files.tuned]
    measured = dict(zip(networks, choices, strict=True)) if choices else {}
    return {
        role: choose_modes(job.recipe, device, measured.get(role if role in networks else STUDENT)) for role in models
    }


def _borrowed_data(job: JobSettings, companion: Workbench | None) -> Data | None:
    if companion is None:
        return None
    lender = companion.job
    same_recipe = all(getattr(job.recipe, key) == getattr(lender.recipe, key) for key in ("augmentation", "workers"))
    same_images = (job.dataset, job.split_seed) == (lender.dataset, lender.split_seed)
    return companion.data if same_recipe and same_images else None


def _models(job: JobSettings, files: Files, data: Data, peers: int) -> dict[str, TappedModel]:
    models: dict[str, TappedModel] = {}
    size, given = (data.num_classes, data.image_size), data.normalisation
    if job.student is not None:
        for k in range(peers + 1):
            # the student's initialisation is the same for every method of a seed
            torch.manual_seed(derived_seed(job.seed, "student" if k == 0 else peer(k)))
            model = build_model(job.student, *size)
            freeze(model, job.student.freeze, job.student.freeze_bn)
            refuse_frozen_draws(model)
            if not job.student.train:
                model.see_as(finished_normalisation(job.student, given), given)
            models[STUDENT if k == 0 else peer(k)] = model
    for k, settings in enumerate(job.teachers):
        model = build_model(settings, *size)
        if files.previous is None:
            # the teacher may be a student of the experiment, deployed with more than its architecture
            model = redeploy(model, read_state(files.teachers[k])[1], data.image_size)
            load_trained(model, files.teachers[k], given)
        models[teacher(k)] = model
    return models


def _load_pretrained(job: JobSettings, extra: nn.ModuleDict, path: Path) -> None:
    """Load what a pre-stage made into the modules of the same names; a combination keeps them under the method's."""
    state, _ = read_state(path)
    owners = [card(part.card).name for part in job.method if card(part.card).pretrain]
    for owner in owners:
        # the pre-stage of several methods is a combination itself
        prefix = f"{owner}." if len(owners) > 1 else ""
        made = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        _load_made(owner, made, extra if len(job.method) == 1 else extra[owner], path)


def _load_made(owner: str, state: Mapping[str, Tensor], modules: nn.Module, path: Path) -> None:
    for name in sorted({key.split(".", 1)[0] for key in state}):
        own = {key.split(".", 1)[1]: value for key, value in state.items() if key.startswith(f"{name}.")}
        try:
            modules[name].load_state_dict(own)  # type: ignore[operator, index]
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path} does not hold the {name} that {owner} was asked for") from error

"""The training jobs of the workflow: from a job's settings and files to the folder that it leaves."""

import copy
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from kd.engine.checkpoint import ResumeFile, load_state, save_state
from kd.engine.cotraining import train_together
from kd.engine.data import Data, load_data
from kd.engine.evaluation import Predictions, accuracies, observations, predict
from kd.engine.feed import derived_seed
from kd.engine.history import Row, write_metrics
from kd.engine.modes import COMPILED, TORCH, Mode, Modes, choose_modes
from kd.engine.outputs import read_outputs
from kd.engine.precision import Precision, set_kernels, training_device
from kd.engine.resolve import build_method
from kd.engine.runner import make_trainable
from kd.engine.teachers import FrozenForward, fixed_view
from kd.engine.team import Team, deploy
from kd.engine.training import OnEpoch, Result, Training
from kd.methods.contract import STUDENT, Method, Stage, peer, teacher
from kd.models.base import Origin, TappedModel
from kd.models.build import build_model
from kd.models.freezing import freeze, refuse_frozen_draws, refuse_unfinished
from kd.models.reuse import added_parameters, deployment, redeploy
from kd.models.weights import load_weights, read_state, save_tensors, save_weights
from kd.record.provenance import git_state, hardware, peak_memory_mb, versions
from kd.schema.cards import MethodSettings, card
from kd.schema.config import Recipe
from kd.study.digests import canonical, text_digest
from kd.study.job_settings import JobSettings
from kd.study.made import MANIFEST, RESUME
from kd.tools.errors import UserError
from kd.tools.files import atomic_write, read_json, write_json

log = logging.getLogger(__name__)

FEATURE_IMAGES = 512


@dataclass(frozen=True)
class Files:
    """Where a job reads and writes."""

    data: Path
    folder: Path
    teachers: Sequence[Path] = ()
    outputs: Sequence[Path] = ()
    """What each teacher makes of the fixed view, for a run that reads it."""
    pretrained: Path | None = None
    previous: Path | None = None
    """State of the half-stage before this one."""
    tuned: Sequence[Path] = ()
    """How the job's networks run, the student first, where that was measured."""
    code: str = ""
    """Digest of the code that the workflow saw."""

    def digest(self) -> str:
        """Return a digest of everything that the job reads."""
        inputs = [
            self.data / MANIFEST,
            *self.teachers,
            *self.outputs,
            self.pretrained,
            self.previous,
            *self.tuned,
        ]
        return text_digest("".join(_file_digest(path) for path in inputs if path is not None))


@dataclass
class Workbench:
    """A job made ready: data on the device, team built, method bound."""

    job: JobSettings
    data: Data
    team: Team
    method: Method
    precision: Precision
    origin: Origin | None = None
    """What the student was built from, None of one that was initialised afresh."""


def train_student(job: JobSettings, files: Files, on_epoch: OnEpoch) -> Result:
    """Train a student (or, with the card ce, a teacher) and write its run folder."""
    bench = prepare(job, files)
    if job.student is not None and not job.student.train:
        return _keep_as_it_is(bench, files)
    result = _train(bench, files, bench.method.plan(), on_epoch)
    student = bench.team.models[STUDENT]
    _save_student(files.folder, job, student, result)
    _finish(bench, files, result)
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
    if top * data.num_classes <= 100:
        log.warning("that is no better than chance: are the file's classes those of the data, in the same order?")
    result = Result(last=weights, best=weights)
    write_settings(job, files.folder)
    write_metrics(files.folder / "metrics.csv", [])
    _save_student(files.folder, job, team.models[STUDENT], result)
    _finish(bench, files, result, more={"trained": False, "validation": {"val_top1": top}})
    return result


def train_students(
    jobs: Sequence[JobSettings], folders: Sequence[Files], on_epoch: OnEpoch
) -> list[Result | UserError]:
    """Train several methods' students of one seed and team in one process; each run folder is as if trained alone.

    A training that diverges leaves the best weights that it had (or those it began with), and run.json with status
    failed and the reason, which is returned in its place. Only where all of them diverge is it raised.
    """
    benches: list[Workbench] = []
    for job, files in zip(jobs, folders, strict=True):
        benches.append(prepare(job, files, benches[0] if benches else None))
    begun = [copy.deepcopy(bench.team.models[STUDENT].state_dict()) for bench in benches]
    trainings = [_training(bench, files, on_epoch) for bench, files in zip(benches, folders, strict=True)]
    outcomes = train_together(trainings, [bench.method.plan() for bench in benches])
    failures = [outcome if isinstance(outcome, UserError) else None for outcome in outcomes]
    if all(failures):
        raise next(failure for failure in failures if failure is not None)
    for bench, files, training, failure, weights in zip(benches, folders, trainings, failures, begun, strict=True):
        result = training.result
        if failure is not None:
            result.best = result.last = result.best or weights
        write_metrics(files.folder / "metrics.csv", result.rows)
        _save_student(files.folder, bench.job, bench.team.models[STUDENT], result)
        _finish(bench, files, result, failure)
    return outcomes


def pretrain(job: JobSettings, files: Files, on_epoch: OnEpoch) -> Result:
    """Train what a method prepares on the teacher alone and write extra.safetensors."""
    bench = prepare(job, files)
    result = _train(bench, files, bench.method.pretrain_plan(), on_epoch)
    save_tensors(files.folder / "extra.safetensors", bench.team.extra.state_dict())
    _finish(bench, files, result)
    return result


def train_half_stage(job: JobSettings, files: Files, on_epoch: OnEpoch) -> Result:
    """Train one half of one stage of a chain and write the state that the next half starts from."""
    bench = prepare(job, files)
    before = load_state(files.previous) if files.previous else {"optimizers": {}}
    assert job.half is not None, "a half-stage job names its half"
    stage = bench.method.half_stage(job.half)
    result = _train(bench, files, stage, on_epoch, before["optimizers"])
    if STUDENT in stage.trained():
        _save_student(files.folder, job, bench.team.models[STUDENT], result)
        # the next half starts from the weights that validation selected, as the run's result does
        bench.team.models[STUDENT].load_state_dict(result.best)
    optimizers = {**before["optimizers"], **result.optimizers}
    save_state(files.folder / "state.pt", {"team": bench.team.state(), "optimizers": optimizers})
    _finish(bench, files, result, more={"validation": {**validation_of(result.rows[-1]), **_team_report(bench)}})
    return result


def _team_report(bench: Workbench) -> dict[str, float]:
    """Return what every network, head and observation of the method makes of the validation images."""
    team, data, recipe = bench.team, bench.data, bench.job.recipe
    team.fold([])
    reading = (data.validation, data.augmenter, bench.precision, recipe.eval_batch_size)
    found = accuracies(team, bench.method, *reading, list(team.models), heads=True)
    tops = {"val_top1" if name == STUDENT else f"val_top1/{name}": top for name, top in found.items() if name != "loss"}
    seen = observations(team, bench.method, *reading)
    return {**tops, **{f"val/{name}": value for name, value in seen.items()}}


def evaluate_network(job: JobSettings, files: Files, weights: Path, data: Data | None = None) -> dict[str, Predictions]:
    """Return what finished weights make of the validation and test images, as 'val' and 'test'.

    `data` are the job's, where they are loaded already.
    """
    device = training_device()
    set_kernels(job.recipe)
    data = data or load_data(files.data, job, device)
    model = _finished(job, data, weights)
    mode = evaluation_mode(job.recipe, device)
    make_trainable(model, mode, device)
    precision = mode.on(device)
    stores = {"val": (data.validation, 0), "test": (data.test, FEATURE_IMAGES)}
    return {
        split: predict(
            model, store, data.augmenter, precision, job.recipe.eval_batch_size, features, mode.channels_last
        )
        for split, (store, features) in stores.items()
    }


def evaluation_mode(recipe: Recipe, device: torch.device) -> Mode:
    """Return how finished weights are evaluated: by the recipe, never by what was measured, and never compiled."""
    mode = choose_modes(recipe, device).frozen
    return replace(mode, kernels=TORCH) if mode.kernels == COMPILED else mode


def evaluated_in(job: JobSettings) -> dict[str, str]:
    """Return what evaluation.json says of how its numbers were made."""
    device = training_device()
    return {"device": device.type, "precision": evaluation_mode(job.recipe, device).precision}


def evaluate_single(job: JobSettings, files: Files, weights: Path) -> dict[str, dict[str, float]]:
    """Return top-1 in percent of finished weights on the training, validation and test images, by split."""
    device = training_device()
    set_kernels(job.recipe)
    data = load_data(files.data, job, device)
    modes = choose_modes(job.recipe, device)
    team = Team({STUDENT: _finished(job, data, weights)}, device, {STUDENT: modes})
    bench = Workbench(job, data, team, Method(MethodSettings()), modes.frozen.on(device))
    return {split: {"top1": found[STUDENT]} for split, found in _by_split(bench, heads=False).items()}


def evaluate_team(job: JobSettings, files: Files) -> dict[str, dict[str, float]]:
    """Return by split what the state after a half-stage makes of it: top-1 of every role and head, and observations."""
    bench = prepare(job, files)
    return _by_split(bench, heads=True)


def _by_split(bench: Workbench, heads: bool) -> dict[str, dict[str, float]]:
    """Return accuracies in percent and observations on plain training, validation and test images."""
    data, team = bench.data, bench.team
    found = {}
    for split, store in (("train", data.train), ("val", data.validation), ("test", data.test)):
        reading = (store, data.augmenter, bench.precision, bench.job.recipe.eval_batch_size)
        tops = accuracies(team, bench.method, *reading, list(team.models), heads=heads)
        seen = observations(team, bench.method, *reading) if heads else {}
        found[split] = {**{name: top for name, top in tops.items() if name != "loss"}, **seen}
    return found


def _finished(job: JobSettings, data: Data, weights: Path) -> TappedModel:
    """Return a network with finished weights, as it was deployed."""
    assert job.student is not None, "an evaluation names its network"
    model = build_model(job.student.model_copy(update={"pretrained": False}), data.num_classes, data.image_size)
    model = redeploy(model, read_state(weights)[1], data.image_size)
    load_weights(model, weights)
    return model


# --- making ready ---------------------------------------------------------------------------------


def prepare(job: JobSettings, files: Files, companion: Workbench | None = None) -> Workbench:
    """Load data and networks, measure shapes, build the method's modules; every draw is seeded for its purpose.

    A companion trained in the same process lends its images and its teachers where they are the same.
    """
    device = training_device()
    set_kernels(job.recipe)
    data = _borrowed_data(job, companion) or load_data(files.data, job, device)
    method = build_method(job.method, len(job.teachers))
    models = _models(job, files, data, method)
    if companion is not None and companion.job.teachers == job.teachers:
        models |= {role: model for role, model in companion.team.models.items() if role.startswith("teacher")}
    origin = models[STUDENT].origin if STUDENT in models else None
    modes = _modes(job, files, models, device)
    team = Team(models, device, modes)
    torch.manual_seed(derived_seed(job.seed, "extra"))
    team, context = deploy(team, method, data.image_size, data.train.labels, data.num_classes)
    method.bind(context)
    team.add_extra(method.build(context))
    if files.pretrained is not None:
        _load_pretrained(job, team.extra, files.pretrained)
    if files.previous is not None:
        team.load_state(load_state(files.previous)["team"])
    team.taps.update(method.role_taps)
    # the scaler's: that of the network that is trained, if there is one
    precision = modes[next(iter(modes))].trained.on(device)
    return Workbench(job, data, team, method, precision, origin)


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


def _models(job: JobSettings, files: Files, data: Data, method: Method) -> dict[str, TappedModel]:
    models: dict[str, TappedModel] = {}
    size = (data.num_classes, data.image_size)
    if job.student is not None:
        for k in range(method.needs().peers + 1):
            # the student's initialisation is the same for every method of a seed
            torch.manual_seed(derived_seed(job.seed, "student" if k == 0 else peer(k)))
            model = build_model(job.student, *size)
            freeze(model, job.student.freeze, job.student.freeze_bn)
            refuse_frozen_draws(model)
            models[STUDENT if k == 0 else peer(k)] = model
    for k, settings in enumerate(job.teachers):
        model = build_model(settings, *size)
        if files.previous is None:
            # the teacher may be a student of the experiment, deployed with more than its architecture
            model = redeploy(model, read_state(files.teachers[k])[1], data.image_size)
            load_weights(model, files.teachers[k])
        models[teacher(k)] = model
    return models


def _load_pretrained(job: JobSettings, extra: nn.ModuleDict, path: Path) -> None:
    """Load what a pre-stage trained into the modules of the same names; a combination keeps them under the method's."""
    owner = next(part.card for part in job.method if card(part.card).pretrain)
    modules = extra if len(job.method) == 1 else extra[owner]
    state, _ = read_state(path)
    names = {key.split(".", 1)[0] for key in state}
    for name in sorted(names):
        own = {key.split(".", 1)[1]: value for key, value in state.items() if key.startswith(f"{name}.")}
        try:
            modules[name].load_state_dict(own)  # type: ignore[operator, index]
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path} does not hold the {name} that {owner} was asked for") from error


# --- training and what it leaves ------------------------------------------------------------------


def _train(
    bench: Workbench,
    files: Files,
    stages: Stage | list[Stage],
    on_epoch: OnEpoch,
    optimizers: dict[str, Any] | None = None,
) -> Result:
    training = _training(bench, files, on_epoch)
    result = training.run([stages] if isinstance(stages, Stage) else stages, optimizers)
    write_metrics(files.folder / "metrics.csv", result.rows)
    return result


def _training(bench: Workbench, files: Files, on_epoch: OnEpoch) -> Training:
    """Write what will be trained and return the training, which goes on from a resume file of the same run."""
    job, folder = bench.job, files.folder
    folder.mkdir(parents=True, exist_ok=True)
    settings = write_settings(job, folder)
    initial = bench.origin.digest if bench.origin else ""
    stamp = text_digest(canonical([settings, files.code, files.digest(), initial]))
    return Training(
        bench.team,
        bench.method,
        bench.data,
        job.recipe,
        bench.precision,
        job.seed,
        ResumeFile(folder / RESUME, stamp),
        on_epoch,
        _frozen_forward(bench, files),
    )


def write_settings(job: JobSettings, folder: Path) -> dict[str, Any]:
    """Write config.yaml, what a job was told, and return it."""
    settings = job.model_dump(mode="json")
    atomic_write(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=True))
    return settings


def _frozen_forward(bench: Workbench, files: Files) -> FrozenForward:
    """Return what runs the untrained roles, with the teachers' outputs where the run reads them."""
    data, team = bench.data, bench.team
    frozen = FrozenForward(team, bench.precision, bench.method.needs(), data.train, data.augmenter)
    if files.outputs:
        logits = read_outputs(files.outputs, data.digest).to(team.device)
        frozen.fixed_logits = logits
        if bench.job.recipe.teacher_view == "fixed" and any(team.taps[teacher(k)] for k in range(len(logits))):
            frozen.fixed_images = fixed_view(data.train, data.augmenter, bench.job.split_seed)
    return frozen


def _save_student(folder: Path, job: JobSettings, student: TappedModel, result: Result) -> None:
    assert job.student is not None, "a run without a student has no weights to keep"
    for name, state in (("best", result.best), ("last", result.last)):
        student.load_state_dict(state)
        epoch = result.best_epoch if state is result.best else len(result.rows)
        metadata = {"arch": job.student.arch, "epoch": str(epoch), **deployment(student)}
        save_weights(student, folder / "checkpoints" / f"{name}.safetensors", metadata)


def _finish(
    bench: Workbench,
    files: Files,
    result: Result,
    failure: UserError | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write run.json, the last file of a job; `more` replaces or adds entries.

    The resume file stays until a later job drops it (kd.study.made.drop_progress).
    """
    outcome = {"status": "ok"} if failure is None else {"status": "failed", "reason": str(failure)}
    write_json(files.folder / "run.json", {**record_of(bench, files, result), **outcome, **(more or {})})


def record_of(bench: Workbench, files: Files, result: Result) -> dict[str, Any]:
    """Return what run.json says about a finished training."""
    device = bench.team.device
    return {
        "status": "ok",
        "settings": bench.job.model_dump(mode="json"),
        "pretrained": bench.origin and bench.origin.record(),
        "digests": {"code": files.code, "inputs": files.digest(), "split": bench.data.digest},
        "versions": versions(),
        "hardware": {
            **hardware(device, bench.precision.name),
            "kernels": {role: modes.record() for role, modes in bench.team.ran().items()},
        },
        "seconds": {"train": round(result.seconds, 3)},
        "peak_memory_mb": peak_memory_mb(device),
        "flops": {"train": result.flops},
        "params": _parameters(bench),
        "images": {"train": len(bench.data.train), "validation": len(bench.data.validation)},
        **({} if bench.data.taken is None else {"classes": bench.data.taken}),
        "epochs": len(result.rows),
        "best_epoch": result.best_epoch,
        "validation": validation_of(result.rows[-1] if result.rows else {}),
        "git": git_state(),
    }


def validation_of(row: Row) -> dict[str, float]:
    """Return the validation accuracies in a history row."""
    return {key: value for key, value in row.items() if key.startswith("val_top1") and value is not None}


def _parameters(bench: Workbench) -> dict[str, int]:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    extra, models = bench.team.extra, bench.team.models
    peers = sum(count(model) for role, model in models.items() if role.startswith("peer"))
    deployed = sum(count(module) for module in bench.method.inference_modules(extra))
    added = added_parameters(models[STUDENT]) if STUDENT in models else 0
    return {
        "student": count(models[STUDENT]) - added if STUDENT in models else 0,
        "extra_train": count(extra) + peers + added,
        "extra_inference": deployed + added,
    }


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def describe(job: JobSettings) -> str:
    """Return one line on who teaches whom."""
    names = ", ".join(part.card for part in job.method)
    teachers = " + ".join(model.arch for model in job.teachers) or "no teacher"
    student = job.student.arch if job.student else "pre-stage"
    stage = f", stage {job.stage} {job.half}" if job.stage else ""
    length = f"{job.recipe.epochs} epochs" if job.student is None or job.student.train else "used as it is"
    return f"{names}: {teachers} -> {student}, seed {job.seed}{stage}, {length}"


def planned_epochs(job: JobSettings) -> int:
    """Return how many epochs a job will train, all of its stages counted."""
    if job.student is not None and not job.student.train:
        return 0
    method = build_method(job.method, len(job.teachers))
    if job.student is None:
        stages = [method.pretrain_plan()]
    else:
        stages = [method.half_stage(job.half)] if job.half else method.plan()
    return sum(stage.recipe.get("epochs", job.recipe.epochs) for stage in stages)

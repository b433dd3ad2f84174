"""What all jobs that train share: how a training begins, and the folder that it leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kd.engine.checkpoint import ResumeFile
from kd.engine.history import Result, Row
from kd.engine.jobs.files import Files
from kd.engine.jobs.workbench import Workbench
from kd.engine.teachers import FrozenForward
from kd.engine.training import OnEpoch, Training
from kd.methods.contract import STUDENT, Stage, is_peer, teacher
from kd.models.reuse import added_parameters, deployment
from kd.models.weights import normalisation_notes, save_weights
from kd.record.epochs import write_metrics
from kd.record.run_json import run_record, write_settings
from kd.study.digests import canonical, text_digest
from kd.study.made import RESUME
from kd.study.options import FIXED_VIEW, option
from kd.tools.errors import UserError
from kd.tools.files import write_json


def train(
    bench: Workbench,
    files: Files,
    stages: Sequence[Stage],
    on_epoch: OnEpoch,
    optimizers: dict[str, Any] | None = None,
    given: Mapping[str, float] | None = None,
) -> Result:
    """Train some stages, or go on with them, and write config.yaml and metrics.csv.

    `given` are the accuracies of a chain's networks and heads before it, which the method judges a stage by.
    """
    training = training_of(bench, files, on_epoch)
    training.given = given or {}
    result = training.run(list(stages), optimizers)
    write_metrics(files.folder / "metrics.csv", result.rows)
    return result


def training_of(bench: Workbench, files: Files, on_epoch: OnEpoch) -> Training:
    """Write what will be trained and return the training, which goes on from a resume file of the same run."""
    job, folder = bench.job, files.folder
    folder.mkdir(parents=True, exist_ok=True)
    settings = job.model_dump(mode="json")
    write_settings(folder, settings)
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
        frozen_forward_of(bench, files),
    )


def frozen_forward_of(bench: Workbench, files: Files) -> FrozenForward:
    """Return what runs the untrained roles, with the teachers' outputs where the run reads them."""
    data, team = bench.data, bench.team
    logits = images = None
    if files.outputs:
        asked = option(FIXED_VIEW)
        logits = asked.read_outputs(files.outputs, data.digest).to(team.device)
        if bench.job.recipe.teacher_view == "fixed" and any(team.taps[teacher(k)] for k in range(len(logits))):
            images = asked.fixed_view(data.train, data.augmenter, bench.job.split_seed)
    return FrozenForward(team, bench.precision, bench.wants, data.train, data.augmenter, logits, images)


def save_student(folder: Path, bench: Workbench, result: Result) -> None:
    """Write checkpoints/best.safetensors and checkpoints/last.safetensors."""
    job, student = bench.job, bench.team.models[STUDENT]
    assert job.student is not None, "a run without a student has no weights to keep"
    seen = normalisation_notes(student, bench.data.normalisation)
    for name, state in (("best", result.best), ("last", result.last)):
        student.load_state_dict(state)
        epoch = result.best_epoch if state is result.best else len(result.rows)
        metadata = {"arch": job.student.arch, "epoch": str(epoch), **seen, **deployment(student)}
        save_weights(student, folder / "checkpoints" / f"{name}.safetensors", metadata)


def finish(
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
    data = bench.data
    return run_record(
        bench.job.model_dump(mode="json"),
        files.digests(data.digest),
        bench.team.device,
        bench.precision.name,
        result.seconds,
        kernels={role: modes.record() for role, modes in bench.team.ran().items()},
        pretrained=bench.origin and bench.origin.record(),
        normalised=normalised(bench),
        flops={"train": result.flops},
        params=_parameters(bench),
        images={"train": len(data.train), "validation": len(data.validation)},
        **({} if data.taken is None else {"classes": data.taken}),
        epochs=len(result.rows),
        best_epoch=result.best_epoch,
        validation=validation_of(result.rows[-1] if result.rows else {}),
    )


def normalised(bench: Workbench) -> dict[str, dict[str, Any]]:
    """Return by role how the images of each network are normalised for it."""
    given = bench.data.normalisation
    return {role: asdict(model.normalised or given) for role, model in bench.team.models.items()}


def validation_of(row: Row) -> dict[str, float]:
    """Return the validation accuracies in a history row."""
    return {key: value for key, value in row.items() if key.startswith("val_top1") and value is not None}


def _parameters(bench: Workbench) -> dict[str, int]:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    extra, models = bench.team.extra, bench.team.models
    peers = sum(count(model) for role, model in models.items() if is_peer(role))
    added = added_parameters(models[STUDENT]) if STUDENT in models else 0
    return {
        "student": count(models[STUDENT]) - added if STUDENT in models else 0,
        "extra_train": count(extra) + peers + added,
        "extra_inference": added,
    }

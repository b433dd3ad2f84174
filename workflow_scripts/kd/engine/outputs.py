"""What a teacher makes of one fixed augmented view of the training images, asked once for every run that reads it."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kd.engine.data import load_data
from kd.engine.flops import FlopCounter
from kd.engine.modes import choose_modes
from kd.engine.precision import Precision, set_kernels, training_device
from kd.engine.runner import make_trainable
from kd.engine.teachers import fixed_view
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.models.weights import load_weights, read_state, save_tensors
from kd.record.provenance import git_state, hardware, peak_memory_mb, versions
from kd.study.job_settings import JobSettings
from kd.tools.errors import UserError
from kd.tools.files import write_json

if TYPE_CHECKING:
    from kd.engine.jobs import Files

log = logging.getLogger(__name__)

LOGITS = "logits"


def teacher_outputs(job: JobSettings, files: "Files") -> None:
    """Write outputs.safetensors, logits (n,C) float32 of every training image by position, and run.json.

    Only the training part of the split is ever sent to the teacher; validation images are not.
    """
    device = training_device()
    set_kernels(job.recipe)
    data = load_data(files.data, job, device)
    (settings,), (weights,) = job.teachers, files.teachers
    teacher = build_model(settings, data.num_classes, data.image_size)
    load_weights(teacher, weights)
    mode = choose_modes(job.recipe, device).frozen
    make_trainable(teacher, mode, device)
    precision = mode.on(device)
    started = time.perf_counter()
    view = fixed_view(data.train, data.augmenter, job.split_seed)
    with FlopCounter() as counter:
        logits = logits_of(teacher, view, precision, job.recipe.eval_batch_size, mode.memory_format)
    seconds = time.perf_counter() - started
    save_tensors(files.folder / "outputs.safetensors", {LOGITS: logits}, {"split": data.digest})
    record = {
        "status": "ok",
        "settings": job.model_dump(mode="json"),
        "digests": {"code": files.code, "inputs": files.digest(), "split": data.digest},
        "versions": versions(),
        "hardware": hardware(device, precision.name),
        # named like a training's cost, as which it counts for every run that reads these outputs
        "seconds": {"train": round(seconds, 3)},
        "flops": {"train": float(counter.total)},
        "peak_memory_mb": peak_memory_mb(device),
        "images": {"teacher": len(logits)},
        "git": git_state(),
    }
    write_json(files.folder / "run.json", record)
    log.info("sent %d training images to %s", len(logits), settings.arch)


@torch.no_grad()
def logits_of(
    model: TappedModel, images: Tensor, precision: Precision, batch_size: int, memory_format: torch.memory_format
) -> Tensor:
    """Return logits (n,C) float32, on the CPU, of augmented images (n,3,H,W)."""
    model.eval()
    parts = []
    for batch in images.split(batch_size):
        with precision.autocast():
            logits, _ = model(batch.contiguous(memory_format=memory_format))
        parts.append(logits.float())
    return torch.cat(parts).cpu()


def read_outputs(paths: Sequence[Path], split: str | None = None) -> Tensor:
    """Return logits (K,n,C) of K teachers; those of another split (its digest) or of unequal shapes are a UserError."""
    found = []
    for path in paths:
        state, metadata = read_state(path)
        if LOGITS not in state:
            raise UserError(f"{path} holds no teacher outputs, found {', '.join(sorted(state)) or 'nothing'}")
        if split is not None and metadata.get("split") != split:
            raise UserError(f"{path} holds outputs on other training images than this run's: make it anew")
        found.append(state[LOGITS])
    for path, logits in zip(paths, found, strict=True):
        if logits.shape != found[0].shape:
            shapes = f"{tuple(logits.shape)} and {tuple(found[0].shape)}"
            raise UserError(f"{path} and {paths[0]} hold outputs of different shapes, found {shapes}")
    return torch.stack(found)

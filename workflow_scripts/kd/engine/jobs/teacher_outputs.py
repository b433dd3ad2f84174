"""What a teacher makes of one fixed augmented view of the training images, asked once for every run that reads it."""

import logging
import time
from dataclasses import asdict

import torch
from torch import Tensor

from kd.engine.data import load_data
from kd.engine.fixed_view import fixed_view, save_outputs
from kd.engine.flops import FlopCounter
from kd.engine.jobs.files import Files
from kd.engine.modes import choose_modes, make_trainable
from kd.engine.precision import Precision, set_kernels, training_device
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.models.weights import load_trained
from kd.record.run_json import run_record
from kd.study.job_settings import JobSettings
from kd.tools.files import write_json

log = logging.getLogger(__name__)


def teacher_outputs(job: JobSettings, files: Files) -> None:
    """Write outputs.safetensors, logits (n,C) float32 of every training image by position, and run.json.

    Only the training part of the split is ever sent to the teacher; validation images are not.
    """
    device = training_device()
    set_kernels(job.recipe)
    data = load_data(files.data, job, device)
    (settings,), (weights,) = job.teachers, files.teachers
    teacher = build_model(settings, data.num_classes, data.image_size)
    load_trained(teacher, weights, data.normalisation)
    mode = choose_modes(job.recipe, device).frozen
    make_trainable(teacher, mode, device)
    precision = mode.on(device)
    started = time.perf_counter()
    view = fixed_view(data.train, data.augmenter, job.split_seed)
    with FlopCounter() as counter:
        logits = logits_of(teacher, view, precision, job.recipe.eval_batch_size, mode.memory_format)
    seconds = time.perf_counter() - started
    save_outputs(files.folder, logits, data.digest)
    record = run_record(
        job.model_dump(mode="json"),
        files.digests(data.digest),
        device,
        precision.name,
        seconds,
        flops={"train": float(counter.total)},
        images={"teacher": len(logits)},
        normalised={"teacher": asdict(teacher.normalised or data.normalisation)},
    )
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

"""What a finished chain makes of the training images, as targets for a class-incremental run."""

import logging
import time

import torch

from kd.engine.jobs import Files, prepare
from kd.engine.outputs import LOGITS
from kd.engine.teachers import fixed_view
from kd.models.weights import save_tensors
from kd.record.provenance import git_state, hardware, versions
from kd.study.job_settings import JobSettings
from kd.tools.files import write_json

log = logging.getLogger(__name__)


@torch.no_grad()
def synergy_outputs(job: JobSettings, files: Files) -> None:
    """Write outputs.safetensors, logits (n,C) of the chain's head (of ASIB: the synergy) by position, and run.json.

    `job` is the chain's last half-stage and `files.previous` the state that it left. The images are the fixed view that
    rule teacher_outputs asks teachers about, of the training part of the split only.
    """
    bench, started = prepare(job, files), time.perf_counter()
    for _, module in bench.team.modules():
        module.eval()
    parts = []
    for images in fixed_view(bench.data.train, bench.data.augmenter, job.split_seed).split(job.recipe.eval_batch_size):
        heads = bench.method.heads(bench.team.forward(images, bench.precision), bench.team.extra)
        parts.append(next(iter(heads.values())).float().cpu())
    logits = torch.cat(parts)
    save_tensors(files.folder / "outputs.safetensors", {LOGITS: logits}, {"split": bench.data.digest})
    record = {
        "status": "ok",
        "settings": job.model_dump(mode="json"),
        "digests": {"code": files.code, "inputs": files.digest(), "split": bench.data.digest},
        "versions": versions(),
        "hardware": hardware(bench.team.device, bench.precision.name),
        "seconds": {"train": round(time.perf_counter() - started, 3)},
        "images": {"chain": len(logits)},
        "git": git_state(),
    }
    write_json(files.folder / "run.json", record)
    log.info("sent %d training images through the chain", len(logits))

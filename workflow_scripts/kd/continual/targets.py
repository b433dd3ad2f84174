"""What a finished chain makes of the training images, as targets for a class-incremental run."""

import logging
import time

import torch

from kd.engine.fixed_view import fixed_view, save_outputs
from kd.engine.jobs.files import Files
from kd.engine.jobs.workbench import prepare
from kd.methods.contract import Teaches
from kd.record.run_json import run_record
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
    assert isinstance(bench.method, Teaches), "a chain makes its student's target"
    for _, module in bench.team.modules():
        module.eval()
    parts, size = [], job.recipe.eval_batch_size
    view = fixed_view(bench.data.train, bench.data.augmenter, job.split_seed)
    for positions in torch.arange(len(view), device=view.device).split(size):
        outputs = bench.team.forward(view[positions], bench.precision)
        parts.append(bench.method.taught(outputs, bench.team.extra, positions).float().cpu())
    logits = torch.cat(parts)
    save_outputs(files.folder, logits, bench.data.digest)
    record = run_record(
        job.model_dump(mode="json"),
        files.digests(bench.data.digest),
        bench.team.device,
        bench.precision.name,
        time.perf_counter() - started,
        images={"chain": len(logits)},
    )
    write_json(files.folder / "run.json", record)
    log.info("sent %d training images through the chain", len(logits))

"""What a method prepares on the teacher alone, such as FT's paraphraser."""

from kd.engine.history import Result
from kd.engine.jobs.files import Files
from kd.engine.jobs.trainings import finish, train
from kd.engine.jobs.workbench import prepare
from kd.engine.training import OnEpoch
from kd.methods.contract import Pretrains
from kd.models.weights import save_tensors
from kd.study.job_settings import JobSettings


def pretrain(job: JobSettings, files: Files, on_epoch: OnEpoch) -> Result:
    """Train what a method prepares on the teacher alone and write extra.safetensors."""
    bench = prepare(job, files)
    assert isinstance(bench.method, Pretrains), f"{bench.method.name} has no pre-stage"
    result = train(bench, files, [bench.method.pretrain_plan()], on_epoch)
    save_tensors(files.folder / "extra.safetensors", bench.team.extra.state_dict())
    finish(bench, files, result)
    return result

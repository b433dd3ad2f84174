"""What a method prepares on the teacher alone, such as FT's paraphraser."""

from kd.engine.history import Clock, Result
from kd.engine.jobs.files import Files
from kd.engine.jobs.trainings import finish, train
from kd.engine.jobs.workbench import Workbench, prepare
from kd.engine.seeds import derived_seed
from kd.engine.survey import TeacherLook
from kd.engine.training import OnEpoch
from kd.methods.contract import Pretrains, Surveys
from kd.models.weights import save_tensors
from kd.record.epochs import write_metrics
from kd.record.run_json import write_settings
from kd.study.job_settings import JobSettings


def pretrain(job: JobSettings, files: Files, on_epoch: OnEpoch) -> Result:
    """Train or measure what a method prepares on the teacher alone and write extra.safetensors."""
    bench = prepare(job, files)
    if isinstance(bench.method, Surveys):
        result = _survey(bench, files)
    else:
        assert isinstance(bench.method, Pretrains), f"{bench.method.name} has no pre-stage"
        result = train(bench, files, [bench.method.pretrain_plan()], on_epoch)
    save_tensors(files.folder / "extra.safetensors", bench.team.extra.state_dict())
    finish(bench, files, result)
    return result


def _survey(bench: Workbench, files: Files) -> Result:
    """Let the method measure the teacher; there are no epochs."""
    job, clock = bench.job, Clock()
    assert isinstance(bench.method, Surveys)
    write_settings(files.folder, job.model_dump(mode="json"))
    seed = derived_seed(job.seed, "survey")
    look = TeacherLook(bench.team, bench.data, bench.precision, job.recipe.eval_batch_size, seed)
    bench.method.survey(bench.team.extra, bench.data.train.labels.cpu(), look)
    write_metrics(files.folder / "metrics.csv", [])
    return Result(seconds=clock.seconds(), flops=float(look.counter.total))

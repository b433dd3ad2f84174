"""One half of one stage of a staged method: a job of a chain, each of which starts from the state before it."""

from collections.abc import Mapping

import torch

from kd.engine.checkpoint import load_state, save_state
from kd.engine.evaluation import accuracies, observations, seen
from kd.engine.history import Result
from kd.engine.jobs.files import Files
from kd.engine.jobs.trainings import finish, normalised, save_student, train, validation_of
from kd.engine.jobs.workbench import Workbench, prepare
from kd.engine.training import OnEpoch
from kd.methods.contract import GIVEN, STUDENT, Calibrates, Halved, Stage
from kd.study.job_settings import JobSettings


def train_half_stage(job: JobSettings, files: Files, on_epoch: OnEpoch) -> Result:
    """Train one half of one stage of a chain and write the state that the next half starts from."""
    bench = prepare(job, files)
    before = load_state(files.previous) if files.previous else {"optimizers": {}}
    assert job.half is not None, "a half-stage job names its half"
    assert isinstance(bench.method, Halved), f"{bench.method.name} is no chain"
    stage = bench.method.half_stage(job.half)
    given = before["given"] if files.previous else _given(bench)
    result = train(bench, files, [stage], on_epoch, before["optimizers"], given)
    if STUDENT in stage.trained():
        save_student(files.folder, bench, result)
        # the next half starts from the weights that validation selected, as the run's result does
        bench.team.models[STUDENT].load_state_dict(result.best)
    bench.team.fold([])
    _calibrate(bench, stage)
    optimizers = {**before["optimizers"], **result.optimizers}
    state = {"team": bench.team.state(), "optimizers": optimizers, "normalised": normalised(bench), "given": given}
    save_state(files.folder / "state.pt", state)
    finish(bench, files, result, more={"validation": {**validation_of(result.rows[-1]), **_team_report(bench, given)}})
    return result


@torch.no_grad()
def _calibrate(bench: Workbench, stage: Stage) -> None:
    if isinstance(bench.method, Calibrates):
        data, size = bench.data, bench.job.recipe.eval_batch_size
        made = seen(bench.team, data.validation, data.augmenter, bench.precision, size)
        bench.method.calibrate(stage, ((outputs, labels) for outputs, labels, _ in made), bench.team.extra)


def _given(bench: Workbench) -> dict[str, float]:
    """Return the accuracies of all but the student on the validation images before the first half-stage."""
    data, roles = bench.data, [role for role in bench.team.models if role != STUDENT]
    reading = (data.validation, data.augmenter, bench.precision, bench.job.recipe.eval_batch_size)
    found = accuracies(bench.team, bench.method, *reading, roles, heads=True)
    return {f"{GIVEN}{name}": top for name, top in found.items()}


def _team_report(bench: Workbench, given: Mapping[str, float]) -> dict[str, float]:
    """Return what every network, head and observation of the method makes of the validation images.

    What `given` says of the time before the chain stands beside it.
    """
    team, data, recipe = bench.team, bench.data, bench.job.recipe
    reading = (data.validation, data.augmenter, bench.precision, recipe.eval_batch_size)
    found = accuracies(team, bench.method, *reading, list(team.models), heads=True)
    found = {name: top for name, top in {**found, **given}.items() if name != "loss"}
    tops = {"val_top1" if name == STUDENT else f"val_top1/{name}": top for name, top in found.items()}
    seen = observations(team, bench.method, *reading)
    return {**tops, **{f"val/{name}": value for name, value in seen.items()}}

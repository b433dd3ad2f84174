"""The accuracies of all that a chain's last half-stage holds, on all splits."""

from kd.engine.evaluation import accuracies, observations
from kd.engine.jobs.files import Files
from kd.engine.jobs.workbench import prepare
from kd.study.job_settings import JobSettings


def evaluate_team(job: JobSettings, files: Files) -> dict[str, dict[str, float]]:
    """Return by split what the state after a half-stage makes of it: top-1 of every role and head, and observations."""
    bench = prepare(job, files)
    data, team = bench.data, bench.team
    found = {}
    for split, store in (("train", data.train), ("val", data.validation), ("test", data.test)):
        reading = (store, data.augmenter, bench.precision, job.recipe.eval_batch_size)
        tops = accuracies(team, bench.method, *reading, list(team.models), heads=True)
        seen = observations(team, bench.method, *reading)
        found[split] = {**{name: top for name, top in tops.items() if name != "loss"}, **seen}
    return found

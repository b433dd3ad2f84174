"""What reads the test split."""

from collections.abc import Sequence

from kd.study.digests import canonical
from kd.study.job_plan import JobPlan
from kd.study.job_settings import JobSettings
from kd.study.jobs.asib import halves
from kd.study.jobs.images import data_folder, manifest, packing
from kd.study.jobs.making import Jobs, of_rule
from kd.study.jobs.training import WEIGHTS, environment, loading, network_modules, reading_recipe
from kd.study.plan import Plan
from kd.study.resources import Work
from kd.study.runs import Run
from kd.tools.memo import remembered

EVALUATION = Work(minutes=20, mem_mb=3000)


@of_rule
def evaluate(jobs: Jobs, run: Run) -> JobPlan:
    """Return the reading of the test split with a run's weights."""
    plan = jobs.plan
    first = [jobs.evaluated(teacher) for teacher in plan.taught(run).teachers[:1]]
    members = [jobs.of("evaluate", one) for one in plan.ensemble_runs(run)]
    split_seed = plan.teacher_seed(run.seed)
    return _evaluation(jobs, "evaluate", jobs.training(run), run.dataset, run.student, split_seed, first, members)


@of_rule
def evaluate_teacher(jobs: Jobs, dataset: str, teacher: str, seed: int) -> JobPlan:
    """Return the reading of the test split with a teacher's weights; the seed is its own."""
    training = jobs.of("train_teacher", dataset, teacher, seed)
    return _evaluation(jobs, "evaluate_teacher", training, dataset, teacher, seed)


def _evaluation(
    jobs: Jobs,
    rule: str,
    training: JobPlan,
    dataset: str,
    network: str,
    split_seed: int,
    teacher: Sequence[JobPlan] = (),
    members: Sequence[JobPlan] = (),
) -> JobPlan:
    """Return an evaluation, which compares with a first `teacher` and averages with `members` of a chain of runs."""
    folder = training.folder
    return jobs.make(
        rule,
        folder,
        _settings(jobs.plan, dataset, network, split_seed),
        {"evaluate", *network_modules(jobs.plan, network)},
        inputs={
            "data": manifest(jobs.plan, dataset),
            **{name: f"{folder}/checkpoints/{name}.safetensors" for name in ("best", "last")},
            "metrics": f"{folder}/metrics.csv",
            "teacher": [f"{job.folder}/predictions.npz" for job in teacher],
            "members": [f"{job.folder}/predictions.npz" for job in members],
        },
        after=(packing(jobs, dataset), training, *teacher, *members),
        data=data_folder(jobs.plan, dataset),
        work=EVALUATION,
    )


@of_rule
def evaluate_single(jobs: Jobs, run: Run) -> JobPlan:
    """Return the accuracies of a run's weights, or of those that --config ckpt_path names, on all splits."""
    plan, training, other = jobs.plan, jobs.training(run), jobs.asked.ckpt_path
    return jobs.make(
        "evaluate_single",
        training.folder,
        _settings(plan, run.dataset, run.student, plan.teacher_seed(run.seed)),
        {"evaluate_single", *network_modules(plan, run.student)},
        [other] if other else [],
        inputs={"data": manifest(plan, run.dataset), "weights": other or f"{training.folder}/{WEIGHTS}"},
        after=(packing(jobs, run.dataset), *([] if other else [training])),
        data=data_folder(plan, run.dataset),
        work=EVALUATION,
    )


@remembered
def _settings(plan: Plan, dataset: str, network: str, split_seed: int) -> str:
    """Return what an evaluation is told: which network, and how images are read; nothing of how it was trained."""
    settings = JobSettings(
        dataset=loading(plan, dataset),
        environment=environment(plan),
        student=plan.built(network),
        recipe=reading_recipe(plan),
        seed=0,
        split_seed=split_seed,
    )
    return canonical(settings.model_dump(mode="json"))


def steps(jobs: Jobs, run: Run) -> list[JobPlan]:
    """Return every job of a run's own, in order."""
    chain = jobs.plan.variants[run.method].chain
    return [*(halves(jobs, run) if chain else []), jobs.training(run), jobs.of("evaluate", run)]

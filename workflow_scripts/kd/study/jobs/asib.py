"""ASIB: every half of every stage is a job that starts from the half before it."""

from collections.abc import Sequence

from kd.study.chain import HALVES, STUDENT_UPDATE, TEACHER_UPDATE, stage_settings, stages
from kd.study.job_plan import JobPlan
from kd.study.job_settings import MethodPart
from kd.study.jobs.making import Jobs, of_rule
from kd.study.jobs.training import method_modules, method_parts, network_modules, on_images, train
from kd.study.runs import Run


@of_rule
def asib_teacher_update(jobs: Jobs, run: Run, stage: int) -> JobPlan:
    """Return the teachers' half of a stage (from 1)."""
    return _half(jobs, run, stage, TEACHER_UPDATE)


@of_rule
def asib_student_update(jobs: Jobs, run: Run, stage: int) -> JobPlan:
    """Return the student's half of a stage (from 1)."""
    return _half(jobs, run, stage, STUDENT_UPDATE)


def _half(jobs: Jobs, run: Run, stage: int, half: str) -> JobPlan:
    plan = jobs.plan
    recipe = plan.recipe_of(run)
    ((name, settings),) = [(part.card, part.settings) for part in method_parts(plan, run.method, recipe)]
    # from the first one on: each asks for those before it, a hundred stages deep
    earlier = _halves(jobs, run, 2 * (stage - 1) + HALVES.index(half))
    return train(
        jobs,
        f"asib_{half}",
        f"{plan.folder}/{run.path}/stage{stage}/{half}",
        plan.taught(run),
        {f"asib_{half}", *method_modules(plan, run.method)},
        dataset=run.dataset,
        recipe=recipe,
        previous=earlier[-1] if earlier else None,
        method=[MethodPart(card=name, settings=stage_settings(settings, stage, half, recipe.epochs))],
        seed=run.seed,
        split_seed=plan.teacher_seed(run.seed),
        stage=stage,
        half=half,
    )


def _halves(jobs: Jobs, run: Run, count: int) -> list[JobPlan]:
    return [jobs.of(f"asib_{HALVES[k % 2]}", run, k // 2 + 1) for k in range(count)]


def halves(jobs: Jobs, run: Run) -> list[JobPlan]:
    """Return every half-stage of a chain, in order."""
    ((_, settings),) = jobs.plan.variants[run.method].parts
    return _halves(jobs, run, 2 * stages(settings))


@of_rule
def asib_result(jobs: Jobs, run: Run) -> JobPlan:
    """Return what makes one run of a chain's half-stages."""
    made = halves(jobs, run)
    students = [job for job in made if job.rule == f"asib_{STUDENT_UPDATE}"]
    weights = [f"{job.folder}/checkpoints/{name}.safetensors" for job in students for name in ("best", "last")]
    return jobs.make(
        "asib_result",
        f"{jobs.plan.folder}/{run.path}",
        "",
        {"asib_result"},
        inputs={
            "runs": [f"{job.folder}/run.json" for job in made],
            "metrics": [f"{job.folder}/metrics.csv" for job in made],
            "weights": weights,
        },
        after=tuple(made),
    )


@of_rule
def evaluate_synergy(jobs: Jobs, run: Run) -> JobPlan:
    """Return the accuracies of all that a finished chain holds, on all splits."""
    return _of_last_half(jobs, "evaluate_synergy", run, f"{jobs.plan.folder}/{run.path}")


@of_rule
def asib_predictions(jobs: Jobs, run: Run, stage: int, half: str) -> JobPlan:
    """Return what the networks and heads of a half-stage make of images; of the first, its teachers as given too."""
    of_half, first = jobs.of(f"asib_{half}", run, stage), (stage, half) == (1, HALVES[0])
    teachers = [jobs.trained(teacher) for teacher in jobs.plan.taught(run).teachers] if first else []
    return _of_half(jobs, "asib_predictions", run, of_half, of_half.folder, teachers)


def half_predictions(jobs: Jobs, run: Run) -> list[JobPlan]:
    """Return the predictions of every half-stage of a chain, in order."""
    ((_, settings),) = jobs.plan.variants[run.method].parts
    numbers = range(1, stages(settings) + 1)
    return [jobs.of("asib_predictions", run, stage, half) for stage in numbers for half in HALVES]


@of_rule
def synergy_outputs(jobs: Jobs, run: Run) -> JobPlan:
    """Return a finished chain's pass over the training images."""
    folder = f"{jobs.plan.folder}/{run.path}/synergy_outputs"
    return _of_last_half(jobs, "synergy_outputs", run, folder)


def _of_last_half(jobs: Jobs, rule: str, run: Run, folder: str) -> JobPlan:
    return _of_half(jobs, rule, run, halves(jobs, run)[-1], folder)


def _of_half(jobs: Jobs, rule: str, run: Run, half: JobPlan, folder: str, teachers: Sequence[JobPlan] = ()) -> JobPlan:
    """Return a job that reads what a half-stage of a chain left, and is told what that one was told."""
    plan = jobs.plan
    modules = {rule, *method_modules(plan, run.method), *network_modules(plan, *plan.taught(run).networks)}
    assert half.work is not None
    told = (run.dataset, folder, half.settings, modules, half.work)
    return on_images(jobs, rule, *told, teachers=teachers, previous=[half])

"""Class-incremental runs: one job trains all tasks; the rule of the matrix alone reads the test split."""

from typing import Any

from kd.study.continual import TEACHER, ContinualJobSettings, ContinualRun
from kd.study.digests import canonical
from kd.study.job_plan import JobPlan
from kd.study.jobs.evaluations import EVALUATION
from kd.study.jobs.images import data_folder, manifest, packing
from kd.study.jobs.making import Jobs, of_rule
from kd.study.jobs.training import environment, loading, network_modules, reading_recipe, train
from kd.study.plan import Plan
from kd.study.runs import Run, Taught


@of_rule
def continual_run(jobs: Jobs, run: ContinualRun) -> JobPlan:
    """Return a class-incremental training."""
    plan, chain = jobs.plan, target_run(jobs.plan, run)
    strategy = plan.continual.strategies[run.strategy]
    return train(
        jobs,
        "continual_run",
        f"{plan.folder}/{run.path}",
        taught(plan, run),
        {"continual_run"},
        dataset=run.dataset,
        recipe=plan.continual.recipes[run.strategy],
        tunes=False,
        outputs=[jobs.of("synergy_outputs", chain)] if chain else [],
        kind=ContinualJobSettings,
        strategy=strategy.model_copy(update={"recipe": {}}),
        **_tasks(plan, run),
    )


@of_rule
def continual_matrix(jobs: Jobs, run: ContinualRun) -> JobPlan:
    """Return the reading of the test split after each task."""
    plan, training = jobs.plan, jobs.of("continual_run", run)
    settings = ContinualJobSettings(
        dataset=loading(plan, run.dataset),
        environment=environment(plan),
        student=plan.built(run.student),
        recipe=reading_recipe(plan),
        **_tasks(plan, run),
    )
    return jobs.make(
        "continual_matrix",
        training.folder,
        canonical(settings.model_dump(mode="json")),
        {"continual_matrix", *network_modules(plan, run.student)},
        inputs={
            "data": manifest(plan, run.dataset),
            "weights": [f"{training.folder}/checkpoints/task{task}.safetensors" for task in plan.continual.tasks],
        },
        after=(packing(jobs, run.dataset), training),
        data=data_folder(plan, run.dataset),
        work=EVALUATION,
    )


def _tasks(plan: Plan, run: ContinualRun) -> dict[str, Any]:
    """Return what says which classes make a task, and with which images."""
    section = plan.continual.section
    assert section is not None, "only an experiment with a section continual has such runs"
    order = {"num_tasks": section.num_tasks, "class_order": section.class_order}
    return {**order, "seed": run.seed, "split_seed": plan.teacher_seed(run.seed)}


def taught(plan: Plan, run: ContinualRun) -> Taught:
    """Return a run's student with the teacher that it reads live, if its strategy asks for one."""
    names = plan.continual.teachers if plan.continual.strategies[run.strategy].targets == TEACHER else []
    return Taught(run.student, tuple(plan.teacher(run.dataset, name, run.seed) for name in names))


def target_run(plan: Plan, run: ContinualRun) -> Run | None:
    """Return the chain of the same data set and seed whose synergy logits a run is distilled from, if one is."""
    targets = plan.continual.strategies[run.strategy].targets
    if targets is None or targets == TEACHER:
        return None
    return plan.run_of(run.dataset, plan.experiment.pairs[0], plan.variants[targets], run.seed)

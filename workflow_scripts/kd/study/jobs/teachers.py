"""Teachers, what they make of one fixed view of the images, and what methods prepare on them."""

from kd.schema.cards import card
from kd.schema.config import Recipe
from kd.study.experiment import merged_recipe
from kd.study.job_plan import JobPlan
from kd.study.job_settings import MethodPart
from kd.study.jobs.making import Jobs, of_rule
from kd.study.jobs.training import method_parts, reading_recipe, train
from kd.study.plan import Plan
from kd.study.runs import Run, Taught, Teacher
from kd.tools.memo import remembered


@of_rule
def train_teacher(jobs: Jobs, dataset: str, teacher: str, seed: int) -> JobPlan:
    """Return a teacher's training; the seed is its own."""
    return train(
        jobs,
        "train_teacher",
        f"{jobs.plan.folder}/{Teacher(teacher, dataset, seed).path}",
        Taught(teacher),
        {"train_teacher", card("ce").module},
        dataset=dataset,
        recipe=jobs.plan.teacher_recipe(teacher),
        method=[MethodPart(card="ce", settings=card("ce").resolve({}, "ce").model_dump(mode="json"))],
        seed=seed,
        split_seed=seed,
    )


@of_rule
def teacher_outputs(jobs: Jobs, dataset: str, teacher: str, seed: int) -> JobPlan:
    """Return a teacher's pass over one fixed view of the training images; the seed is its own."""
    return train(
        jobs,
        "teacher_outputs",
        f"{jobs.plan.folder}/{dataset}/teacher_outputs/{teacher}/seed{seed}",
        Taught(None, (jobs.plan.teacher(dataset, teacher, seed),)),
        {"teacher_outputs"},
        dataset=dataset,
        recipe=reading_recipe(jobs.plan),
        tunes=False,
        seed=0,
        split_seed=seed,
    )


@of_rule
def pretrain_method(jobs: Jobs, dataset: str, teacher: str, method: str, seed: int) -> JobPlan:
    """Return a method's pre-stage; the seed is the teacher's."""
    plan = jobs.plan
    recipe = _pretrain_recipe(plan, method)
    parts = [part for part in method_parts(plan, method, recipe) if card(part.card).pretrain]
    return train(
        jobs,
        "pretrain_method",
        f"{plan.folder}/{dataset}/pretrain/{teacher}/{method}/seed{seed}",
        Taught(None, (plan.teacher(dataset, teacher, seed),)),
        {"pretrain_method", *(card(part.card).module for part in parts)},
        dataset=dataset,
        recipe=recipe,
        method=parts,
        seed=seed,
        split_seed=seed,
    )


@remembered
def _pretrain_recipe(plan: Plan, method: str) -> Recipe:
    # there is no student yet whose view a fixed one could differ from
    changes = {**plan.variants[method].recipe, "teacher_view": "live"}
    return merged_recipe(plan.experiment.recipe, changes, f"methods.{method}.recipe")


def prepared(jobs: Jobs, run: Run) -> tuple[list[JobPlan], list[JobPlan]]:
    """Return what was made on a run's teachers for it: the method's pre-stage, and outputs teacher by teacher.

    A search has the pre-stage of its method as written: nothing that it draws is read there.
    """
    plan, variant = jobs.plan, jobs.plan.variants[run.method]
    seed, first = plan.teacher_seed(run.seed), run.teachers[:1] if variant.pretrain else ()
    reads = run.teachers if plan.reads_outputs(run) else ()
    return (
        [jobs.of("pretrain_method", run.dataset, name, variant.searched or run.method, seed) for name in first],
        [jobs.of("teacher_outputs", run.dataset, name, seed) for name in reads],
    )


def made_for(jobs: Jobs, run: Run) -> list[JobPlan]:
    """Return all that was made for a run beside its own training and its pair's teachers, each once.

    Pre-stages and outputs of the run and of those that it learns from, and the trainings of those; of what was searched
    all trials, with all that was made for them.
    """
    plan, earlier = jobs.plan, jobs.plan.lineage(run)
    before = [job for one in (*earlier, run) for group in prepared(jobs, one) for job in group]
    searched = plan.variants[run.method].searched and not plan.variants[run.method].trial
    trials = plan.searches.trials(plan.searches.of(run)) if searched else []
    for one in trials:
        given = plan.taught(one).teachers
        before += [jobs.trained(teacher) for teacher in given if teacher not in plan.teachers]
        before += [*made_for(jobs, one), jobs.training(one)]
    return list(dict.fromkeys([*before, *map(jobs.training, earlier)]))

"""Students whose training is one job, alone or beside others."""

from kd.study.digests import canonical
from kd.study.job_plan import JobPlan
from kd.study.job_settings import Budget
from kd.study.jobs.making import Jobs, of_rule
from kd.study.jobs.teachers import made_for, prepared
from kd.study.jobs.training import method_modules, method_parts, train
from kd.study.options import CHOSEN
from kd.study.plan import Plan
from kd.study.resources import work_together
from kd.study.runs import Run
from kd.study.titles import side_by_side
from kd.study.together import together


@of_rule
def train_student(jobs: Jobs, run: Run) -> JobPlan:
    """Return a student's training, alone or beside others: the result is the same."""
    plan = jobs.plan
    pretrained, outputs = prepared(jobs, run)
    recipe = plan.recipe_of(run)
    searched = [jobs.of("choose", plan.searches.of(run))] if plan.variants[run.method].searched else []
    rows = [[jobs.training(one), *made_for(jobs, one)] for one in rows_matched(plan, run)]
    own = made_for(jobs, run) if rows else []
    return train(
        jobs,
        "train_student",
        f"{plan.folder}/{run.path}",
        plan.taught(run),
        {"train_student", "train_students", *([CHOSEN] if searched else []), *method_modules(plan, run.method)},
        dataset=run.dataset,
        recipe=recipe,
        outputs=outputs,
        pretrained=pretrained,
        chosen=searched,
        spent=[job for row in (*rows, own) for job in row],
        budget=Budget(rows=[len(row) for row in rows], own=len(own)) if rows else None,
        method=method_parts(plan, run.method, recipe),
        seed=run.seed,
        split_seed=plan.teacher_seed(run.seed),
    )


def rows_matched(plan: Plan, run: Run) -> list[Run]:
    """Return the runs whose operations a run trains for, the most that one of them takes; mostly none.

    Pairs that share the run each have theirs.
    """
    variant = plan.variants[run.method]
    found = [
        plan.run_of(run.dataset, pair, plan.variants[name], run.seed)
        for pair in plan.experiment.pairs
        if variant.compute_of and plan.run_of(run.dataset, pair, variant, run.seed) == run
        for name in variant.compute_of
    ]
    return list(dict.fromkeys(found))


@of_rule
def train_students(jobs: Jobs, run: Run) -> JobPlan:
    """Return the training of a run's student with those of its job, in one process: each is what it would be alone."""
    plan = jobs.plan
    (shared,) = (one for one in together(plan.experiment) if one.holds(run))
    parts = [jobs.of("train_student", one) for one in shared.runs(run)]
    told = [
        {
            **{"settings": job.settings, "code": job.code, "folder": job.folder},
            **{"record": job.record, "identity": job.identity, "title": job.title},
            **{key: job.inputs[key] for key in ("outputs", "pretrained", "tuned")},
        }
        for job in parts
    ]
    lists = ("tuned", "initial", "outputs", "pretrained")
    return JobPlan(
        "train_students",
        parts[0].folder,
        canonical(told),
        code="",
        inputs={
            "data": parts[0].inputs["data"],
            "teachers": parts[0].inputs["teachers"],
            **{name: list(dict.fromkeys(file for job in parts for file in job.inputs[name])) for name in lists},
        },
        work=work_together([job.work for job in parts if job.work]),
        title=side_by_side(plan, shared.runs(run)),
        parts=tuple(parts),
    )

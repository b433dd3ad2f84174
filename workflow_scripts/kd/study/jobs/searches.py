"""Searches of hyper-parameters: trials, what is chosen of them, and the table of all of them."""

from typing import Any

from kd.study.digests import canonical
from kd.study.job_plan import JobPlan
from kd.study.jobs.making import Jobs, of_rule
from kd.study.jobs.teachers import prepared
from kd.study.jobs.training import method_modules, method_parts, train
from kd.study.plan import Plan
from kd.study.runs import Run
from kd.study.search import drawn_by, drawn_recipe


@of_rule
def train_trial(jobs: Jobs, run: Run) -> JobPlan:
    """Return the training of one trial, which keeps no weights and never reads the test split."""
    plan = jobs.plan
    pretrained, outputs = prepared(jobs, run)
    recipe = plan.recipe_of(run).model_copy(update={"track_test": False})
    return train(
        jobs,
        "train_trial",
        plan.place(run),
        plan.taught(run),
        {"train_trial", *method_modules(plan, run.method)},
        dataset=run.dataset,
        recipe=recipe,
        outputs=outputs,
        pretrained=pretrained,
        method=method_parts(plan, run.method, recipe),
        seed=run.seed,
        split_seed=plan.teacher_seed(run.seed),
    )


@of_rule
def choose(jobs: Jobs, run: Run) -> JobPlan:
    """Return the choice of the trial with the highest validation accuracy; the run has the search's own seed."""
    plan = jobs.plan
    trained = [jobs.training(one) for one in plan.searches.trials(run)]
    told = {
        "method": plan.variants[run.method].searched,
        "weights": plan.experiment.report.weights,
        "trials": [_told(plan, one) for one in plan.searches.trials(run)],
    }
    return jobs.make(
        "choose",
        plan.place(run),
        canonical(told),
        {"choose"},
        inputs={"runs": [f"{job.folder}/run.json" for job in trained]},
        after=tuple(trained),
    )


def _told(plan: Plan, run: Run) -> dict[str, Any]:
    """Return what the settings of a trial are: its losses, and what it drew of the recipe."""
    variant, recipe = plan.variants[run.method], plan.recipe_of(run)
    drawn = drawn_recipe(plan.experiment.search, variant, recipe)
    return {
        "trial": variant.trial,
        "method": [part.model_dump(mode="json") for part in method_parts(plan, run.method, recipe)],
        "recipe": {key: getattr(recipe, key) for key in drawn},
        "drawn": settings_of(plan, run),
    }


def settings_of(plan: Plan, run: Run) -> dict[str, Any]:
    """Return by name what is searched for a trial's method, with the trial's values."""
    assert plan.experiment.search is not None, "a trial has a search"
    return drawn_by(plan.experiment.search, plan.variants[run.method], plan.recipe_of(run))

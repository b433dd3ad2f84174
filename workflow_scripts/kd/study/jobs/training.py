"""What every training has in common: its settings, its files and its measured networks follow from who teaches whom."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from kd.schema.architectures import modules_of
from kd.schema.cards import card
from kd.schema.config import ModelSettings, Recipe
from kd.study.digests import canonical
from kd.study.job_plan import JobPlan
from kd.study.job_settings import JobSettings, MethodPart
from kd.study.jobs.images import data_folder, images_of, manifest, packing
from kd.study.jobs.making import Jobs, of_rule
from kd.study.plan import Plan
from kd.study.resources import Work, training_work
from kd.study.runs import Taught
from kd.study.schedule_epochs import in_epochs_of
from kd.study.user_files import check_weights
from kd.tools.memo import remembered

TUNED_FROM = 50_000
"""Images that a training sees, epochs counted, from which a measurement of its networks earns its minute back."""
WEIGHTS = "checkpoints/best.safetensors"
BUDGETED = 3
"""How many times the recipe's epochs a budget is thought to last."""


def train(
    jobs: Jobs,
    rule: str,
    folder: str,
    taught: Taught,
    modules: set[str],
    *,
    dataset: str,
    recipe: Recipe,
    previous: JobPlan | None = None,
    tunes: bool = True,
    outputs: Sequence[JobPlan] = (),
    pretrained: Sequence[JobPlan] = (),
    spent: Sequence[JobPlan] = (),
    chosen: Sequence[JobPlan] = (),
    kind: type[JobSettings] = JobSettings,
    **told: Any,
) -> JobPlan:
    """Return a training (or a pass over the training images) of some networks.

    `modules` are those of the job itself; those of its networks follow. A training that goes on from a `previous` one
    finds all networks there. `tunes` says whether it runs its networks as they were measured; `spent` are those whose
    operations are its budget, `chosen` is the search whose settings it has; `told` is what else stands in its settings.
    """
    plan = jobs.plan
    settings = kind(
        dataset=loading(plan, dataset),
        environment=environment(plan),
        student=learning(plan, taught.student) if taught.student else None,
        teachers=[plan.built(teacher.network) for teacher in taught.teachers],
        # methods are told their lengths as they come of it
        recipe=recipe.model_copy(update={"schedule_epochs": None}),
        **told,
    )
    tuned = measurements(jobs, dataset, taught) if tunes and recipe.precision == "auto" else []
    teachers = [jobs.trained(teacher) for teacher in taught.teachers] if previous is None else []
    return on_images(
        jobs,
        rule,
        dataset,
        folder,
        canonical(settings.model_dump(mode="json")),
        {*modules, *network_modules(plan, *taught.networks)},
        # what a budget lasts for is known when the job begins
        training_work(
            images_of(jobs, dataset),
            recipe.epochs * (BUDGETED if spent else 1),
            settings.dataset["resident_limit_mb"],
        ),
        student=taught.student if previous is None else None,
        tuned=tuned,
        teachers=teachers,
        outputs=outputs,
        pretrained=pretrained,
        spent=spent,
        chosen=chosen,
        previous=[previous] if previous else [],
    )


def on_images(
    jobs: Jobs,
    rule: str,
    dataset: str,
    folder: str,
    settings: str,
    modules: set[str],
    work: Work,
    student: str | None = None,
    tuned: Sequence[JobPlan] = (),
    teachers: Sequence[JobPlan] = (),
    outputs: Sequence[JobPlan] = (),
    pretrained: Sequence[JobPlan] = (),
    spent: Sequence[JobPlan] = (),
    chosen: Sequence[JobPlan] = (),
    previous: Sequence[JobPlan] = (),
) -> JobPlan:
    """Return a job that reads packed images, a student's initial weights and what other jobs left."""
    files = initial_weights(jobs.plan, student) if student else []
    return jobs.make(
        rule,
        folder,
        settings,
        modules,
        files,
        inputs={
            "data": manifest(jobs.plan, dataset),
            "tuned": [f"{job.folder}/choice.json" for job in tuned],
            "initial": files,
            "teachers": [f"{job.folder}/{WEIGHTS}" for job in teachers],
            "outputs": [f"{job.folder}/outputs.safetensors" for job in outputs],
            "pretrained": [f"{job.folder}/extra.safetensors" for job in pretrained],
            "budget": [f"{job.folder}/run.json" for job in spent],
            "chosen": [f"{job.folder}/choice.json" for job in chosen],
            "previous": [f"{job.folder}/state.pt" for job in previous],
        },
        after=(packing(jobs, dataset), *tuned, *teachers, *outputs, *pretrained, *spent, *chosen, *previous),
        look=partial(look_for_weights, jobs.plan, [student] if files and student else []),
        data=data_folder(jobs.plan, dataset),
        work=work,
    )


@of_rule
def tune(jobs: Jobs, dataset: str, network: str) -> JobPlan:
    """Return the measurement of how a network runs fastest; the kind of device is part of what it is told."""
    plan = jobs.plan
    keys = ("epochs", "batch_size", "channels_last", "kernels", "capture", "deterministic")
    settings = JobSettings(
        dataset=loading(plan, dataset),
        environment={**environment(plan), "device": "gpu" if plan.experiment.gpus else "cpu"},
        student=plan.built(network),
        recipe=Recipe(precision="auto", **{key: getattr(plan.experiment.recipe, key) for key in keys}),
        seed=0,
        split_seed=0,
    )
    return on_images(
        jobs,
        "tune",
        dataset,
        f"{plan.folder}/{dataset}/tuned/{network}",
        canonical(settings.model_dump(mode="json")),
        {"tune", *network_modules(plan, network)},
        Work(minutes=30, mem_mb=6000),
    )


def measurements(jobs: Jobs, dataset: str, taught: Taught) -> list[JobPlan]:
    """Return the measurements of a training's networks in their order; none where its data set's are too short."""
    if not _worth_tuning(jobs, dataset):
        return []
    return [jobs.of("tune", dataset, jobs.plan.built_as[name]) for name in taught.networks]


@remembered
def _worth_tuning(jobs: Jobs, dataset: str) -> bool:
    """Whether trainings are long enough to measure their networks first; the same for all of a data set's runs."""
    experiment = jobs.plan.experiment
    recipes = [experiment.recipe, experiment.teacher_recipe or experiment.recipe]
    return images_of(jobs, dataset) * max(recipe.epochs for recipe in recipes) >= TUNED_FROM


# --- parts of the settings ----------------------------------------------------------------------


@remembered
def loading(plan: Plan, dataset: str) -> dict[str, Any]:
    """Return what acts when a data set's packed images are read."""
    return plan.experiment.datasets[dataset].loading()


@remembered
def environment(plan: Plan) -> dict[str, str]:
    """Return the versions of the libraries, where the experiment asks for the very same ones."""
    if not plan.experiment.strict_environment:
        return {}
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "torchvision", "timm")}


@remembered
def learning(plan: Plan, network: str) -> ModelSettings:
    """Return a network as a training is told of it: what changes its recipe stands in the job's recipe already."""
    return plan.model(network).model_copy(update={"recipe": {}})


@remembered
def reading_recipe(plan: Plan) -> Recipe:
    """Return what of the recipe decides how a finished network reads images."""
    same = {"eval_batch_size", "precision", "channels_last", "kernels", "augmentation", "deterministic"}
    return Recipe(epochs=1, **{key: getattr(plan.experiment.recipe, key) for key in same})


def method_parts(plan: Plan, method: str, recipe: Recipe) -> list[MethodPart]:
    """Return the losses of a variant with all of their settings, in epochs of the training's recipe."""
    parts = plan.variants[method].parts
    return [MethodPart(card=name, settings=in_epochs_of(recipe, name, settings)) for name, settings in parts]


# --- code and files -----------------------------------------------------------------------------


def network_modules(plan: Plan, *networks: str) -> set[str]:
    """Return the modules that build the named networks."""
    return {module for name in networks for module in modules_of(plan.model(name).arch)}


def method_modules(plan: Plan, method: str) -> set[str]:
    """Return the modules of a variant's losses."""
    return {card(name).module for name, _ in plan.variants[method].parts}


def initial_weights(plan: Plan, network: str) -> list[str]:
    """Return the file that a network starts from, if it is one."""
    pretrained = plan.model(network).pretrained
    return [pretrained] if isinstance(pretrained, str) else []


def look_for_weights(plan: Plan, networks: Sequence[str]) -> None:
    """Refuse to train networks whose initial weights are not there. Errors: UserError."""
    for name in networks:
        for file in initial_weights(plan, name):
            check_weights(name, file)

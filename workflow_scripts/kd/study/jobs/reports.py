"""From finished runs to what people read. Each of these jobs is one of the experiment's folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from kd.schema.cards import card
from kd.schema.config import Pair
from kd.study.believed import is_settled
from kd.study.digests import SCRIPTS, canonical, text_digest
from kd.study.job_plan import Files, JobPlan, all_before
from kd.study.jobs.asib import half_predictions
from kd.study.jobs.evaluations import EVALUATION, steps
from kd.study.jobs.images import data_folder
from kd.study.jobs.making import Jobs, of_rule
from kd.study.jobs.searches import settings_of
from kd.study.jobs.teachers import made_for
from kd.study.jobs.training import network_modules
from kd.study.options import OPTIONS
from kd.study.plan import Plan, families
from kd.study.resources import Work
from kd.study.runs import NO_TEACHER, Run
from kd.study.variant import Variant
from kd.tools.memo import remembered

CONTINUAL = ("continual_run", "continual_matrix")
PREDICTIONS = "predictions.npz"
_SINKS = {"sinks", "wandb_project", "wandb_entity"}
TEMPLATE = SCRIPTS / "kd" / "reporting" / "page.html.j2"


@of_rule
def collect(jobs: Jobs) -> JobPlan:
    """Return the gathering of all runs, whose rows say what each must have been made from."""
    read = evaluations(jobs)
    files = {"evaluations": [f"{job.folder}/evaluation.json" for job in read]}
    return _report(jobs, "collect", canonical(rows(jobs)), files, read)


@of_rule
def trials(jobs: Jobs) -> JobPlan:
    """Return the gathering of all trials of all searches."""
    chosen = [jobs.of("choose", search) for search in jobs.plan.searches.runs]
    read = _there(jobs, chosen, "choice.json")
    files: Files = {"choices": [f"{job.folder}/choice.json" for job in read]}
    return _report(jobs, "trials", canonical(trial_rows(jobs)), files, read, "collect_trials")


@of_rule
def statistics(jobs: Jobs) -> JobPlan:
    """Return the statistics of all runs, by a script that hides no module of the standard library."""
    inputs = {"runs": runs_file(jobs.plan)}
    return _report(jobs, "statistics", report_text(jobs.plan), inputs, [jobs.of("collect")], "paired_statistics")


@of_rule
def tables(jobs: Jobs) -> JobPlan:
    """Return the tables of the comparison."""
    settings = canonical([shown(jobs.plan), _cards(jobs.plan)])
    return _report(jobs, "tables", settings, _tabled(jobs), [*_known(jobs), jobs.of("networks")])


@of_rule
def details(jobs: Jobs) -> JobPlan:
    """Return the gathering of what figures and page show of the runs beside the comparison."""
    plan, read = jobs.plan, evaluations(jobs)
    images = {name: data_folder(plan, name) for name in plan.student_datasets}
    settings = canonical({"weights": plan.experiment.report.weights, "images": images})
    # their answers are read too, and not asked for where they were deleted
    files: Files = {"runs": runs_file(plan), "metrics": [f"{job.folder}/metrics.csv" for job in read]}
    return _report(jobs, "details", settings, files, [jobs.of("collect")])


@of_rule
def networks(jobs: Jobs) -> JobPlan:
    """Return the measuring of all networks as they are deployed."""
    plan = jobs.plan
    models = {name: plan.built(name).model_dump(mode="json") for name in plan.networks}
    images = {name: data_folder(plan, name) for name in plan.student_datasets}
    settings = canonical({"weights": plan.experiment.report.weights, "models": models, "images": images})
    return jobs.make(
        "networks",
        plan.folder,
        settings,
        {"networks", *network_modules(plan, *plan.networks)},
        inputs={"runs": runs_file(plan)},
        after=(jobs.of("collect"),),
        work=EVALUATION,
    )


@of_rule
def figures(jobs: Jobs) -> JobPlan:
    """Return the figures of the comparison."""
    settings = canonical({"report": json.loads(report_text(jobs.plan)), "families": families(jobs.plan)})
    inputs = {**_read(jobs.plan), "curves": f"{jobs.plan.folder}/curves.csv"}
    return _report(jobs, "figures", settings, inputs, [*_known(jobs), jobs.of("details")])


@of_rule
def diagnosis(jobs: Jobs) -> JobPlan:
    """Return the measuring of what half-stages of chains made of their images."""
    asked = jobs.plan.experiment.report.analysis
    assert asked is not None, "chains are told of where the analysis is of kind synergy"
    runs = [run for run in jobs.plan.runs if run.method in asked.variants]
    read = _there(jobs, [job for run in runs for job in half_predictions(jobs, run)], PREDICTIONS)
    settings = canonical({"methods": asked.variants, "temperature": asked.temperature})
    files: Files = {"runs": runs_file(jobs.plan), "answers": [f"{job.folder}/{PREDICTIONS}" for job in read]}
    return _report(jobs, "diagnosis", settings, files, [jobs.of("collect"), *read])


@of_rule
def analysis(jobs: Jobs) -> JobPlan:
    """Return the table and figures of the experiment's own analysis."""
    inputs: Files = {"runs": runs_file(jobs.plan), "synergy": _synergy(jobs.plan)}
    return _report(jobs, "analysis", canonical(shown(jobs.plan)), inputs, [jobs.of("collect"), *_diagnosed(jobs)])


@of_rule
def sink(jobs: Jobs, name: str) -> JobPlan:
    """Return the writing of all finished runs for another program."""
    plan, report = jobs.plan, jobs.plan.experiment.report
    wandb = {"project": report.wandb_project or plan.experiment.experiment, "entity": report.wandb_entity}
    metrics = [f"{job.folder}/metrics.csv" for job in evaluations(jobs)]
    told = canonical({"sink": name, **(wandb if name == "wandb" else {})})
    inputs = {**_read(plan), "metrics": metrics}
    return _report(jobs, "sink", told, inputs, _known(jobs), "sinks", f"{plan.folder}/sinks/{name}")


@of_rule
def page(jobs: Jobs) -> JobPlan:
    """Return the page that shows all of it."""
    plan, template = jobs.plan, TEMPLATE.read_text(encoding="utf-8")
    continual = [jobs.of("continual_report")] if plan.continual.runs else []
    before = [jobs.of(rule) for rule in ("details", "networks", "figures")]
    before += [*([jobs.of("analysis")] if plan.designs else []), *continual]
    inputs = {
        **_tabled(jobs),
        "curves": f"{plan.folder}/curves.csv",
        "details": f"{plan.folder}/details.json",
        "continual": [f"{plan.folder}/tables/continual.json"] if continual else [],
        "synergy": _synergy(plan),
    }
    return _report(jobs, "page", canonical([shown(plan), _cards(plan), template]), inputs, before)


@of_rule
def continual_report(jobs: Jobs) -> JobPlan:
    """Return the report of class-incremental runs."""
    read = matrices(jobs)
    settings = canonical([continual_rows(jobs), report_text(jobs.plan)])
    files = {"matrices": [f"{job.folder}/matrix.json" for job in read]}
    return _report(jobs, "continual_report", settings, files, read)


@of_rule
def benchmark(jobs: Jobs) -> JobPlan:
    """Return the measurement of this machine's speed, which has a folder of its own and is part of no experiment."""
    work = Work(minutes=240, mem_mb=16000)
    # it may be asked to time any of them
    modules = {"benchmark", *OPTIONS}
    return jobs.make("benchmark", "results/benchmark", jobs.asked.benchmark, modules, work=work)


def _report(
    jobs: Jobs,
    rule: str,
    settings: str,
    inputs: Files,
    after: Sequence[JobPlan],
    module: str | None = None,
    folder: str | None = None,
) -> JobPlan:
    """Return a job that makes something for people by the script of its name, in the experiment's folder by default."""
    place = folder or jobs.plan.folder
    return jobs.make(rule, place, settings, {module or rule}, inputs=inputs, after=tuple(after))


# --- what they read -----------------------------------------------------------------------------


def runs_file(plan: Plan) -> str:
    """Return the table of all runs."""
    return f"{plan.folder}/runs.csv"


def trials_file(plan: Plan) -> str:
    """Return the table of all trials."""
    return f"{plan.folder}/trials.csv"


def networks_file(plan: Plan) -> str:
    """Return what is known of all networks as they are deployed."""
    return f"{plan.folder}/networks.json"


def _read(plan: Plan) -> dict[str, str | list[str]]:
    return {"runs": runs_file(plan), "statistics": f"{plan.folder}/statistics.json"}


def _tabled(jobs: Jobs) -> dict[str, str | list[str]]:
    searches = {"trials": [trials_file(jobs.plan)] if jobs.plan.searches.runs else []}
    return {**_read(jobs.plan), "networks": networks_file(jobs.plan), **searches}


def _synergy(plan: Plan) -> list[str]:
    """Return synergy.csv, where the analysis is of that kind."""
    return [f"{plan.folder}/synergy.csv"] if any(design.chains for design in plan.designs) else []


def _diagnosed(jobs: Jobs) -> list[JobPlan]:
    return [jobs.of("diagnosis")] if _synergy(jobs.plan) else []


def _known(jobs: Jobs) -> list[JobPlan]:
    return [jobs.of("statistics"), *([jobs.of("trials")] if jobs.plan.searches.runs else [])]


@remembered
def evaluations(jobs: Jobs) -> list[JobPlan]:
    """Return the evaluations of all runs and teachers, or with allow_missing of those that there are as asked."""
    found = [jobs.of("evaluate", run) for run in jobs.plan.runs]
    return _there(jobs, [*found, *map(jobs.evaluated, jobs.plan.teachers)], "evaluation.json")


@remembered
def matrices(jobs: Jobs) -> list[JobPlan]:
    """Return the evaluations of all class-incremental runs, likewise."""
    return _there(jobs, [jobs.of("continual_matrix", run) for run in jobs.plan.continual.runs], "matrix.json")


def _there(jobs: Jobs, found: list[JobPlan], file: str) -> list[JobPlan]:
    if not jobs.asked.allow_missing:
        return found
    return [job for job in found if is_settled(job) and Path(job.folder, file).is_file()]


def report_text(plan: Plan) -> str:
    """Return what statistics and figures of the comparison depend on: not what is made beside them."""
    return canonical(plan.experiment.report.model_dump(mode="json", exclude={"analysis", *_SINKS}))


@remembered
def shown(plan: Plan) -> dict[str, Any]:
    """Return what tables and pages show of the experiment: not how its jobs are run."""
    how = {"gpus", "jobs_per_gpu", "threads", "cache", "co_train", "students_per_job"}
    return plan.experiment.model_dump(mode="json", exclude={**dict.fromkeys(how, True), "report": _SINKS})


def _cards(plan: Plan) -> str:
    """Return the digest of the cards that tables quote."""
    names = {"ce"} | {name for variant in plan.variants.values() for name, _ in variant.parts}
    return text_digest(canonical({name: card(name).model_dump(mode="json") for name in names}))


# --- rows ---------------------------------------------------------------------------------------


@remembered
def rows(jobs: Jobs) -> list[dict[str, Any]]:
    """Return what `collect` needs of every row of runs.csv: teachers first, then students, group by group.

    `made` says what a row's files must have been made from; with allow_missing also whether they are there as asked.
    """
    found = [*_teacher_rows(jobs), *_student_rows(jobs)]
    if jobs.asked.allow_missing:
        folders = {job.folder for job in evaluations(jobs)}
        for row in found:
            row["made"]["there"] = row["made"]["steps"][-1]["folder"] in folders
    return found


def _teacher_rows(jobs: Jobs) -> Iterator[dict[str, Any]]:
    plan = jobs.plan
    for dataset in plan.student_datasets:
        for pair in plan.experiment.pairs:
            for name, seed in product(pair.teachers, plan.teacher_seeds):
                teacher = plan.teacher(dataset, name, seed)
                row = {"kind": "teacher", "method": "teacher", "base_method": "ce"}
                made = [jobs.trained(teacher), jobs.evaluated(teacher)]
                yield _row(plan, pair, Run(dataset, (), name, "teacher", seed), made, row)


def _student_rows(jobs: Jobs) -> Iterator[dict[str, Any]]:
    plan = jobs.plan
    for dataset, pair, run in plan.grouped():
        variant = plan.variants[run.method]
        row = {
            "kind": _kind(variant),
            "method": variant.name if variant.last else run.method,
            "base_method": variant.base,
            "teacher_paths": [plan.place(plan.teacher(dataset, name, run.seed)) for name in run.teachers],
            "prestage_paths": [job.folder for job in made_for(jobs, run)],
            "taught_by": [plan.place(teacher) for teacher in plan.taught(run).teachers],
        }
        yield _row(plan, pair, run, steps(jobs, run), row)


def _kind(variant: Variant) -> str:
    if not variant.last:
        return "link"
    return "control" if variant.control_of else "searched" if variant.searched else "student"


def _row(plan: Plan, pair: Pair, run: Run, made: Sequence[JobPlan], own: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "experiment": plan.experiment.experiment,
        "dataset": run.dataset,
        "pair": pair.name,
        "teachers": "+".join(run.teachers) or NO_TEACHER,
        "student": run.student,
        "seed": run.seed,
        "path": made[-1].folder,
        **{"teacher_paths": [], "prestage_paths": [], "taught_by": []},
        **own,
        "made": _made(made),
    }


@remembered
def trial_rows(jobs: Jobs) -> list[dict[str, Any]]:
    """Return what `collect_trials` needs of every trial, group by group, with what its files must be made from."""
    plan, first = jobs.plan, jobs.plan.experiment.seeds[0]
    found = [
        (dataset, pair, run, plan.searches.of(run))
        for dataset, pair, run in plan.grouped()
        if plan.variants[run.method].searched and run.seed == first
    ]
    return [
        {
            "dataset": dataset,
            "pair": pair.name,
            "teachers": "+".join(run.teachers) or NO_TEACHER,
            "student": run.student,
            "method": plan.variants[run.method].searched,
            "trial": plan.variants[trial.method].trial,
            "seed": trial.seed,
            "drawn": settings_of(plan, trial),
            "path": plan.place(trial),
            "choice": f"{plan.place(search)}/choice.json",
            "made": _made([jobs.training(trial)]),
            "chosen_by": _noted(jobs.of("choose", search)),
        }
        for dataset, pair, run, search in found
        for trial in plan.searches.trials(search)
    ]


@remembered
def continual_rows(jobs: Jobs) -> list[dict[str, Any]]:
    """Return what the report needs of every class-incremental run, with what its files must have been made from."""
    return [
        {**asdict(run), "path": jobs.plan.place(run), "made": _made([jobs.of(rule, run) for rule in CONTINUAL])}
        for run in jobs.plan.continual.runs
    ]


def _made(own: Sequence[JobPlan]) -> dict[str, Any]:
    """Return what says whether a run's files are what is asked: its own jobs, the last one last, and those before."""
    before = dict.fromkeys(one for job in own for one in all_before(job) if one not in own)
    return {"steps": [_noted(job) for job in own], "before": [_noted(job) for job in before]}


def _noted(job: JobPlan) -> dict[str, str | None]:
    return {"folder": job.folder, "record": job.record, "identity": job.identity, "data": job.data}

"""The check of every network and method, which comes before any training."""

import json
from collections.abc import Hashable
from functools import partial
from typing import Any

from kd.study.checks import Check
from kd.study.continual import ContinualRun
from kd.study.digests import canonical
from kd.study.job_plan import JobPlan
from kd.study.jobs.asib import halves
from kd.study.jobs.continual import taught as taught_continually
from kd.study.jobs.images import data_folder, manifest, packing
from kd.study.jobs.making import Jobs, of_rule
from kd.study.jobs.teachers import prepared
from kd.study.jobs.training import initial_weights, look_for_weights, method_modules, network_modules
from kd.study.resources import Work
from kd.study.runs import Run, Taught, Teacher


@of_rule
def check_pairs(jobs: Jobs) -> JobPlan:
    """Return the check of every network and method; the code of all of them is in it."""
    plan = jobs.plan
    weights = list(dict.fromkeys(file for name in plan.networks for file in initial_weights(plan, name)))
    methods = {module for name in plan.variants for module in method_modules(plan, name)}
    continual = {"kd.continual.rehearsal"} if plan.continual.runs else set()
    return jobs.make(
        "check_pairs",
        plan.folder,
        checks_of(jobs),
        {"kd.engine.rehearsal", *continual, *methods, *network_modules(plan, *plan.networks)},
        weights,
        inputs={
            "data": list(dict.fromkeys(manifest(plan, name) for name in plan.experiment.datasets)),
            "initial": weights,
        },
        after=tuple(dict.fromkeys(packing(jobs, name) for name in plan.experiment.datasets)),
        look=partial(look_for_weights, plan, plan.networks),
        work=Work(minutes=30, mem_mb=8000),
    )


def checks_of(jobs: Jobs) -> str:
    """Return the checks of an experiment, as one canonical text."""
    gathered = _Gathered(jobs)
    for teacher in jobs.plan.teachers:
        gathered.teacher(teacher)
    # settings that a search may find build what those as written build
    for run in (one for one in jobs.plan.runs if not jobs.plan.variants[one.method].searched):
        gathered.student(run)
    for one in jobs.plan.continual.runs:
        gathered.continual(one)
    return canonical(gathered.found)


class _Gathered:
    """Checks in the order of training, each of them once for all seeds."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.plan = jobs, jobs.plan
        self.found: list[dict[str, Any]] = []
        self._places: dict[Hashable, int] = {}
        self._several = len(self.plan.experiment.datasets) > 1
        seeds = [*self.plan.experiment.seeds, *(search.seed for search in self.plan.searches.runs)]
        self._seeds = list(dict.fromkeys(map(self.plan.teacher_seed, seeds)))

    def teacher(self, teacher: Teacher) -> int:
        """Note the training of a teacher with all that comes before it, and return where it stands."""
        if teacher.run:
            return self.student(teacher.run)
        key = (teacher.dataset, teacher.network)
        if key not in self._places:
            self._add(key, teacher.dataset, f"teacher {teacher.network}", self.jobs.trained(teacher))
        return self._places[key]

    def student(self, run: Run) -> int:
        """Note the training of a student likewise; where it is several jobs, its last part's place is returned."""
        key = (run.dataset, run.team, run.method)
        if key not in self._places:
            taught, chain = self.plan.taught(run), self.plan.variants[run.method].chain
            name = f"methods.{run.method}, {_who(taught)}"
            pre_stages, _ = prepared(self.jobs, run)
            for job in pre_stages:
                place = (run.dataset, run.teachers[0], run.method)
                if place not in self._places:
                    self._add(place, run.dataset, name, job, taught, "pre-stage")
            for job in halves(self.jobs, run) if chain else [self.jobs.training(run)]:
                self._add(key, run.dataset, name, job, taught)
        return self._places[key]

    def continual(self, run: ContinualRun) -> None:
        """Note a class-incremental training likewise."""
        key = ("continual", run.dataset, run.strategy)
        if key not in self._places:
            name = f"continual.strategies {run.strategy}, {run.student}"
            taught = taught_continually(self.plan, run)
            self._add(key, run.dataset, name, self.jobs.of("continual_run", run), taught)

    def _add(
        self, key: Hashable, dataset: str, name: str, job: JobPlan, taught: Taught | None = None, part: str = ""
    ) -> None:
        """Note a job as that of a key, after those of its teachers."""
        teachers = [self.teacher(teacher) for teacher in taught.teachers] if taught else []
        settings = json.loads(job.settings)
        check = Check(
            name=f"{name}, data set {dataset}" if self._several else name,
            part=part or (f"stage {settings['stage']} {settings['half']}" if settings["stage"] else ""),
            data=data_folder(self.plan, dataset),
            settings=settings,
            seeds=self._seeds,
            gpus=self.plan.experiment.gpus,
            taught_by=teachers,
        )
        self._places[key] = len(self.found)
        self.found.append(check.model_dump(mode="json"))


def _who(taught: Taught) -> str:
    """Return 'teacher+teacher -> student'."""
    teachers = "+".join(teacher.network for teacher in taught.teachers)
    return f"{teachers} -> {taught.student}" if teachers else str(taught.student)

"""What is checked before the first training: every training of an experiment that differs in more than its seed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kd.schema.config import Strict
from kd.study.chain import HALVES
from kd.study.continual import ContinualJobSettings, ContinualPlan, parse_continual_settings
from kd.study.digests import canonical, code_digest
from kd.study.job_settings import JobSettings, parse_settings
from kd.study.plan import Run

TEACHERS = "teachers"


class Check(Strict):
    """A training, as it is checked: one of those that differ in nothing but their seed."""

    name: str
    """How a sentence about it begins: 'methods.at, teacher_net -> student_net'."""
    part: str = ""
    """Which part of a training that is several jobs."""
    data: str
    """Folder of the packed images."""
    settings: dict[str, Any]
    """The job's."""
    seeds: list[int]
    """Seeds of the splits that the trainings see."""
    gpus: int
    """How many its job asks for."""
    taught_by: list[int] = []
    """Which checks are of the trainings whose networks teach this one, teacher by teacher."""

    def job(self) -> JobSettings | ContinualJobSettings:
        """Return the job with the first of the seeds."""
        text = canonical(self.settings)
        return parse_continual_settings(text) if "num_tasks" in self.settings else parse_settings(text)


class _Gathered:
    """Checks in the order of training, each of them once."""

    def __init__(self, plan: ContinualPlan) -> None:
        self.plan = plan
        self.found: list[dict[str, Any]] = []
        self._places: dict[tuple[str, ...], int] = {}
        self._several = len(plan.experiment.datasets) > 1
        self._seeds = list(dict.fromkeys(plan.teacher_seed(seed) for seed in plan.experiment.seeds))

    def add(
        self,
        key: tuple[str, ...],
        dataset: str,
        name: str,
        settings: str,
        taught_by: Iterable[int] = (),
        part: str = "",
    ) -> int:
        """Note a training unless one of its key is there, and return where it stands."""
        if key not in self._places:
            self._places[key] = len(self.found)
            check = Check(
                name=f"{name}, data set {dataset}" if self._several else name,
                part=part,
                data=self.plan.data_folder(dataset),
                settings=json.loads(settings),
                seeds=self._seeds,
                gpus=self.plan.experiment.gpus,
                taught_by=list(taught_by),
            )
            self.found.append(check.model_dump(mode="json"))
        return self._places[key]

    def teacher(self, dataset: str, name: str) -> int:
        """Note the training of a teacher."""
        settings = self.plan.teacher_job(dataset, name, self._seeds[0])
        return self.add((TEACHERS, dataset, name), dataset, f"teacher {name}", settings)

    def student(self, run: Run) -> int:
        """Note the training of a student with all that comes before it, and return where its last part stands."""
        plan, variant = self.plan, self.plan.variants[run.method]
        key = (run.dataset, run.team, run.method)
        if key in self._places:
            return self._places[key]
        if variant.after is not None:
            taught_by = [self.student(plan.lineage(run)[-1])]
            teachers = plan.lineage(run)[-1].student
        else:
            dataset = plan.teachers_dataset(run.dataset)
            taught_by = [self.teacher(dataset, name) for name in run.teachers]
            teachers = "+".join(run.teachers)
        name = f"methods.{run.method}, {f'{teachers} -> ' if teachers else ''}{run.student}"
        if variant.pretrain:
            settings = plan.pretrain_job(run.dataset, run.teachers[0], run.method, plan.teacher_seed(run.seed))
            place = (run.dataset, run.teachers[0], run.method, "pretrain")
            self.add(place, run.dataset, name, settings, taught_by, "pre-stage")
        if not variant.chain:
            return self.add(key, run.dataset, name, plan.student_job(run), taught_by)
        for stage in range(1, plan.stages(run.method) + 1):
            for half in HALVES:
                settings = plan.half_job(run, stage, half)
                self.add((*key, str(stage), half), run.dataset, name, settings, taught_by, f"stage {stage} {half}")
        self._places[key] = len(self.found) - 1
        return self._places[key]


def check_job(plan: ContinualPlan) -> str:
    """Return the checks of an experiment, as one canonical text."""
    gathered = _Gathered(plan)
    for dataset, name, _ in plan.teachers:
        gathered.teacher(dataset, name)
    for run in plan.runs:
        gathered.student(run)
    for one in plan.continual_runs:
        taught_by = [gathered.teacher(plan.teachers_dataset(one.dataset), name) for name in plan.taught_by(one)]
        place = ("continual", one.dataset, one.student, one.strategy)
        name = f"continual.strategies {one.strategy}, {one.student}"
        gathered.add(place, one.dataset, name, plan.continual_job(one), taught_by)
    return canonical(gathered.found)


def parse_checks(content: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Take what `check_job` wrote, read from its text."""
    return [Check.model_validate(one) for one in content]


def check_code(plan: ContinualPlan) -> str:
    """Return the digest of the code that checks an experiment: that of all its networks and methods is in it."""
    methods = {module for name in plan.variants for module in plan.method_modules(name)}
    continual = {"kd.continual.rehearsal"} if plan.continual else set()
    return code_digest({"kd.engine.rehearsal", *continual, *methods, *plan.model_modules(*networks(plan))})


def networks(plan: ContinualPlan) -> list[str]:
    """Return the names of all networks that an experiment trains."""
    names = [name for _, name, _ in plan.teachers] + [run.student for run in plan.runs]
    return list(dict.fromkeys([*names, *plan.continual_students, *plan.continual_teachers]))

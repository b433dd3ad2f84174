"""What a job of an experiment is told, by its rule; and what a start says of the user's own files."""

from collections.abc import Mapping

from kd.study.believed import look_for_files
from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.plan import Plan


def told(plan: Plan, rule: str, *which) -> str:
    return Jobs(plan).of(rule, *which).settings


def told_of_teacher(plan: Plan, teacher, rule: str = "train_teacher") -> str:
    return told(plan, rule, teacher.dataset, teacher.network, teacher.seed)


def taught_from(plan: Plan, run) -> list[str]:
    """The folders of the networks that teach a run."""
    return [plan.place(teacher) for teacher in plan.taught(run).teachers]


def look(content: Mapping) -> None:
    """Look for the user's files as a start does that runs everything."""
    look_for_files(Jobs(Plan(check_experiment(content))).of("collect"))

"""The jobs of an experiment, one file a phase; each function says what the jobs of the rule of its name are."""

from kd.study.job_plan import JobPlan
from kd.study.jobs import asib, check, continual, evaluations, images, reports, searches, students, teachers, training
from kd.study.jobs.making import RULES, Asked, Jobs

PHASES = (images, training, check, teachers, students, searches, asib, evaluations, continual, reports)

__all__ = ["PHASES", "RULES", "Asked", "JobPlan", "Jobs"]

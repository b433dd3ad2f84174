"""What is checked before the first training: every training of an experiment that differs in more than its seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.schema.config import Strict
from kd.study.continual import ContinualJobSettings, parse_continual_settings
from kd.study.digests import canonical, text_digest
from kd.study.job_settings import JobSettings, parse_settings


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


def cost_key(settings: Mapping[str, Any]) -> str:
    """Return what a training's cost is found by among what the check wrote: it depends on no seed."""
    return text_digest(canonical({**settings, "seed": 0, "split_seed": 0}))


def parse_checks(content: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Take the settings of rule check_pairs, read from their text."""
    return [Check.model_validate(one) for one in content]

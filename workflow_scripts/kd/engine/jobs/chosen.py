"""Trainings with the settings that a search chose, in place of those as written."""

import logging
from pathlib import Path

from kd.schema.config import Recipe
from kd.study.experiment import checked
from kd.study.job_settings import JobSettings, MethodPart
from kd.tools.errors import UserError
from kd.tools.files import read_json

log = logging.getLogger(__name__)


def as_chosen(job: JobSettings, choice: Path) -> JobSettings:
    """Return a job with the losses and what of the recipe the file of a choice names."""
    content = read_json(choice, sealed=True)
    try:
        method = [MethodPart.model_validate(part) for part in content["method"]]
        changes, trial = dict(content["recipe"]), content["trial"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{choice} is damaged: delete it and run again") from error
    log.info("trained with the settings of trial %s: %s", trial, content.get("drawn"))
    recipe = checked(Recipe, {**job.recipe.model_dump(), **changes}, f"{choice}: recipe")
    return job.model_copy(update={"method": method, "recipe": recipe})

"""What one job is told: the settings that its result depends on, and nothing else, as one canonical text."""

from typing import Any

from pydantic import Field, ValidationError

from kd.schema.config import DatasetSettings, ModelSettings, Recipe, Strict
from kd.schema.plain import plain_error


class MethodPart(Strict):
    """One loss of a run: a card and all of its settings."""

    card: str
    settings: dict[str, Any]


class Budget(Strict):
    """The operations that a training is given in place of epochs."""

    rows: list[int]
    """How many of the records that it reads each row of the table has: the sums are the rows' operations."""
    own: int = 0
    """How many records follow, of what was made for it, which is spent already."""
    flops: float | None = None
    """The largest of the sums, once the job has read them."""
    recipe_epochs: int | None = None
    """Epochs of the recipe that it would have had without; the job's recipe has those that it was given."""


class JobSettings(Strict):
    """A training or evaluation job."""

    dataset: dict[str, Any]
    """The part of DatasetSettings that acts at load time."""
    student: ModelSettings | None = None
    """The network that is trained; None in a pre-stage that knows the teacher alone."""
    teachers: list[ModelSettings] = []
    method: list[MethodPart] = []
    recipe: Recipe
    seed: int = Field(ge=0)
    split_seed: int = Field(ge=0)
    stage: int | None = None
    """Which stage of a chain this job is a half of, from 1."""
    half: str | None = None
    budget: Budget | None = None
    """What it may spend where that is not the recipe's epochs."""
    environment: dict[str, str] = {}
    """Library versions, when the experiment says strict_environment; for a measurement the kind of device, too."""

    def loading(self) -> DatasetSettings:
        """Return the data set's settings as far as they act at load time."""
        return DatasetSettings.model_construct(**self.dataset)


def parse_settings(text: str) -> JobSettings:
    """Read a job's canonical text; a broken one is a UserError."""
    try:
        return JobSettings.model_validate_json(text, strict=False)
    except ValidationError as error:
        raise plain_error(error, JobSettings, "--settings") from error

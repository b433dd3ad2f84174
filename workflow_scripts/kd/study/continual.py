"""Class-incremental learning: which strategies and runs there are, without torch.

A student learns the classes of a data set task by task, all tasks of a run in one job; a strategy says what it does
against forgetting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from kd.schema.architectures import check_architecture
from kd.schema.cards import MethodSettings
from kd.schema.config import ClassIndex, Count, Experiment, Name, Recipe, Strict, Temperature, Weight
from kd.schema.consistency import CLASSES, check_recipe
from kd.schema.plain import plain_error
from kd.study.experiment import checked, merged_recipe, model_settings
from kd.study.job_settings import JobSettings
from kd.study.names import check_strategy_names
from kd.tools.errors import UserError, shown, unknown

TEACHER = "teacher"


class Strategy(MethodSettings):
    """What a student does against forgetting; everything off is fine-tuning."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Name
    """Of the row in the table and of the runs' folder."""
    ce_weight: Weight = 1.0
    """Of the classification loss."""
    ce_classes: Literal["seen", "current"] = "seen"
    """Classes among which the cross-entropy of an image of the current task decides; replayed ones: always all seen."""
    replay_capacity: int = Field(default=0, ge=0, le=1_000_000_000)
    """Images of earlier tasks that are kept, in all, as many of each class; 0: none."""
    replay_ratio: float | None = Field(default=None, gt=0, le=1000)
    """Replayed images of an epoch for each of the task's own; null: every kept image once."""
    ewc_weight: Weight = 0.0
    """lambda of lambda * sum over tasks, parameters of F (theta - theta*)^2, without a factor 1/2; 0: no EWC."""
    ewc_images: Count = 500
    """Training images of a task that its Fisher information is measured on."""
    prev_kd_weight: Weight = 0.0
    """Distillation from the student as the task before left it, over the classes it knows; 0: none."""
    prev_kd_temperature: Temperature = 4.0
    """Its temperature."""
    targets: Name | None = None
    """Whose logits are distilled, over the seen classes: 'teacher', or a method of the experiment that is a chain."""
    target_weight: Weight = 1.0
    """Of that distillation."""
    target_temperature: Temperature = 4.0
    """Its temperature."""
    balance_epochs: int = Field(default=0, ge=0, le=100_000)
    """Epochs of class-balanced fine-tuning after each task but the first; 0: none."""
    balance_lr: float = Field(default=1e-4, gt=0, le=100)
    """Their learning rate, constant."""
    recipe: dict[str, Any] = {}
    """Recipe keys that differ for this strategy."""


SWITCHES = {
    "replay_ratio": "replay_capacity",
    "balance_epochs": "replay_capacity",
    "ewc_images": "ewc_weight",
    "prev_kd_temperature": "prev_kd_weight",
    "target_weight": "targets",
    "target_temperature": "targets",
    "balance_lr": "balance_epochs",
}
"""Settings of a strategy that do nothing while another one is off."""


class Continual(Strict):
    """The section `continual` of an experiment file."""

    student: Name
    """The network that learns all tasks, by its key in `models` or its architecture's name."""
    teacher: Name | None = None
    """The network, trained on all classes by rule train_teacher, that strategies with targets: teacher learn from."""
    num_tasks: int = Field(ge=2, le=1000)
    """Tasks that the classes are divided into, evenly; classes that are left over go to the first ones."""
    class_order: Literal["seeded", "natural"] | list[ClassIndex] = "seeded"
    """seeded: each seed draws one; natural: that of the labels; a list: every label once."""
    strategies: list[Strategy] = Field(min_length=1, max_length=10_000)
    """What is compared: each strategy is a row, with one run per seed."""


class ContinualJobSettings(JobSettings):
    """The training of a run on all tasks, or (strategy None) its evaluation after each of them."""

    num_tasks: int
    class_order: str | list[int]
    strategy: Strategy | None = None


def parse_continual_settings(text: str) -> ContinualJobSettings:
    """Read a job's canonical text; a broken one is a UserError."""
    try:
        return ContinualJobSettings.model_validate_json(text, strict=False)
    except ValidationError as error:
        raise plain_error(error, ContinualJobSettings, "--settings") from error


@dataclass(frozen=True)
class ContinualRun:
    """One student that learns all tasks with one strategy and seed."""

    dataset: str
    student: str
    strategy: str
    seed: int

    @property
    def path(self) -> str:
        """Return the run's folder below the experiment's."""
        return f"{self.dataset}/continual/{self.student}/{self.strategy}/seed{self.seed}"


class ContinualPlan:
    """The class-incremental runs of an experiment; none where it has no section `continual`."""

    def __init__(self, experiment: Experiment, datasets: Sequence[str], chains: Sequence[str]) -> None:
        """`datasets` are those of students, `chains` the methods that leave targets."""
        self.section = continual_settings(experiment)
        listed = self.section.strategies if self.section else []
        self.strategies = {strategy.name: strategy for strategy in listed}
        self.students = [self.section.student] if self.section else []
        combined = product(datasets, self.students, self.strategies, experiment.seeds)
        self.runs = [ContinualRun(dataset, student, name, seed) for dataset, student, name, seed in combined]
        self.recipes = {name: _recipe(experiment, self.section, one) for name, one in self.strategies.items()}
        for strategy in listed:
            self._check_targets(experiment, strategy, chains)

    @property
    def datasets(self) -> list[str]:
        """Return the data sets of the runs."""
        return list(dict.fromkeys(run.dataset for run in self.runs))

    @property
    def teachers(self) -> list[str]:
        """Return the networks that runs learn from and some rule must train."""
        wanted = any(strategy.targets == TEACHER for strategy in self.strategies.values())
        return [self.section.teacher] if self.section and self.section.teacher and wanted else []

    @property
    def tasks(self) -> range:
        """Return the numbers of the tasks, from 1."""
        return range(1, self.section.num_tasks + 1 if self.section else 1)

    @property
    def idle(self) -> list[str]:
        """Return a sentence on each setting that does nothing and yet may stay, for strategies come and go."""
        named = self.section.teacher if self.section else None
        if named is None or self.teachers:
            return []
        return [f"continual.teacher {shown(named)} does nothing: no strategy has targets: {TEACHER}"]

    def _check_targets(self, experiment: Experiment, strategy: Strategy, chains: Sequence[str]) -> None:
        targets, where = strategy.targets, f"continual.strategies: targets of {strategy.name}"
        if targets is None:
            return
        if targets == TEACHER:
            if self.section is None or self.section.teacher is None:
                raise UserError(f"{where} is 'teacher', but continual.teacher names none")
            return
        if targets not in chains:
            raise unknown(f"{where}, a chain of methods:", targets, [TEACHER, *chains])
        if len(experiment.pairs) != 1:
            raise UserError(f"{where} is the chain '{targets}', which must be that of one pair, found several pairs")


def continual_settings(experiment: Experiment) -> Continual | None:
    """Return the checked section `continual`, if the experiment has one."""
    if experiment.continual is None:
        return None
    section = checked(Continual, experiment.continual, "continual")
    names = [strategy.name for strategy in section.strategies]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"continual.strategies: two are named '{name}': give one of them another name")
    check_strategy_names(experiment, section.student, names)
    if isinstance(section.class_order, list) and sorted(section.class_order) != list(range(len(section.class_order))):
        raise UserError(f"continual.class_order lists every label from 0 once, found {section.class_order}")
    for name in filter(None, (section.student, section.teacher)):
        check_architecture(model_settings(experiment, name).arch)
    for i, strategy in enumerate(section.strategies):
        _check_given(strategy)
        _check_recipe(_recipe(experiment, section, strategy, f"continual.strategies[{i}].recipe"), strategy)
    _check_tasks(experiment, section)
    return section


def _check_tasks(experiment: Experiment, section: Continual) -> None:
    """Refuse more tasks than classes, and an order of other classes, as far as their number is known."""
    for name, dataset in experiment.datasets.items():
        classes = len(dataset.class_subset) if dataset.class_subset else CLASSES.get(dataset.source)
        if classes is None or name == experiment.teacher_dataset:
            continue
        if section.num_tasks > classes:
            raise UserError(
                f"continual.num_tasks: must be at most the {classes} classes of {name}, found {section.num_tasks}"
            )
        if isinstance(section.class_order, list) and len(section.class_order) != classes:
            raise UserError(
                f"continual.class_order: must list the {classes} classes of {name}, found {len(section.class_order)}"
            )


def _check_given(strategy: Strategy) -> None:
    """Refuse settings that would do nothing; only what the file itself gives counts, not defaults."""
    for key, switch in SWITCHES.items():
        if key in strategy.model_fields_set and getattr(strategy, key) and not getattr(strategy, switch):
            raise UserError(
                f"continual.strategies: {key} of {strategy.name} does nothing without {switch}, "
                f"found {shown(getattr(strategy, key))} with {switch} {shown(getattr(strategy, switch))}"
            )


def _recipe(experiment: Experiment, section: Continual | None, strategy: Strategy, where: str = "") -> Recipe:
    assert section is not None, "a strategy stands in a section"
    own = model_settings(experiment, section.student).recipe
    recipe = merged_recipe(experiment.recipe, own, f"models.{section.student}.recipe")
    merged = merged_recipe(recipe, strategy.recipe, where)
    if where and strategy.recipe:
        check_recipe(experiment, merged, strategy.recipe, where)
    return merged


def _check_recipe(recipe: Recipe, strategy: Strategy) -> None:
    """Refuse what contradicts the protocol: nothing is selected, the test split waits for the end of a task."""
    where = f"continual.strategies: recipe of {strategy.name}"
    if recipe.track_test:
        raise UserError(f"{where}: track_test true would read the test split in every epoch, allowed is false")
    if recipe.schedule == "plateau":
        raise UserError(f"{where}: schedule plateau selects on validation images of earlier tasks, allowed are others")
    if recipe.teacher_view == "fixed":
        raise UserError(f"{where}: teacher_view fixed is not defined for tasks, allowed is live")
    mixes = recipe.mixup_alpha > 0 or recipe.cutmix_alpha > 0
    if mixes and strategy.ce_classes == "current":
        raise UserError(f"{where}: ce_classes current is not defined for MixUp or CutMix, set both alphas to 0")

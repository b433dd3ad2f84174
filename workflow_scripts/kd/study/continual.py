"""Class-incremental learning: which strategies and runs there are and what each job depends on, without torch.

A student learns the classes of a data set task by task, all tasks of a run in one job; a strategy says what it does
against forgetting.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from kd.schema.architectures import check_architecture
from kd.schema.cards import MethodSettings
from kd.schema.config import ClassIndex, Count, Experiment, Name, Recipe, Strict, Temperature, Weight
from kd.schema.consistency import CLASSES, check_recipe
from kd.schema.plain import plain_error
from kd.study.chain import STUDENT_UPDATE
from kd.study.digests import canonical, code_digest
from kd.study.experiment import checked, merged_recipe, model_settings
from kd.study.job_settings import JobSettings
from kd.study.names import check_strategy_names
from kd.study.plan import Plan, Run
from kd.tools.errors import UserError, shown, unknown
from kd.tools.memo import remembered

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


class ContinualPlan(Plan):
    """A plan that also knows the runs of the experiment's section `continual`."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.continual = continual_settings(experiment)
        self.strategies = {one.name: one for one in self.continual.strategies} if self.continual else {}
        for strategy in self.strategies.values():
            self._check_targets(strategy)

    @cached_property
    def continual_runs(self) -> list[ContinualRun]:
        """Return every continual run."""
        return list(self._continual_runs())

    def _continual_runs(self) -> Iterator[ContinualRun]:
        for dataset in self.student_datasets if self.continual else ():
            for name in self.strategies:
                for seed in self.experiment.seeds:
                    assert self.continual is not None
                    yield ContinualRun(dataset, self.continual.student, name, seed)

    def continual_rows(self) -> list[dict[str, Any]]:
        """Return what the report needs of every continual run."""
        return [{**asdict(run), "path": f"{self.folder}/{run.path}"} for run in self.continual_runs]

    @cached_property
    def continual_datasets(self) -> list[str]:
        """Return the data sets of continual runs."""
        return list(dict.fromkeys(run.dataset for run in self.continual_runs))

    @property
    def continual_students(self) -> list[str]:
        """Return the student of continual runs, if there are any."""
        return [self.continual.student] if self.continual else []

    @property
    def continual_teachers(self) -> list[str]:
        """Return the networks that continual runs learn from and some rule must train."""
        wanted = any(strategy.targets == TEACHER for strategy in self.strategies.values())
        return [self.continual.teacher] if self.continual and self.continual.teacher and wanted else []

    @property
    def idle(self) -> list[str]:
        """Return a sentence on each setting that does nothing and yet may stay, for strategies come and go."""
        named = self.continual.teacher if self.continual else None
        if named is None or self.continual_teachers:
            return []
        return [f"continual.teacher {shown(named)} does nothing: no strategy has targets: {TEACHER}"]

    def taught_by(self, run: ContinualRun) -> list[str]:
        """Return the name of the teacher that a continual run reads live."""
        return self.continual_teachers if self.strategies[run.strategy].targets == TEACHER else []

    def target_run(self, run: ContinualRun) -> Run | None:
        """Return the chain of the same data set and seed whose synergy logits a continual run is distilled from."""
        targets = self.strategies[run.strategy].targets
        if targets is None or targets == TEACHER:
            return None
        pair = self.experiment.pairs[0]
        return self.run_of(run.dataset, pair, self.variants[targets], run.seed)

    def synergy_job(self, run: Run) -> str:
        """Return the settings of a finished chain's pass over the training images: those of its last half-stage."""
        return self.half_job(run, self.stages(run.method), STUDENT_UPDATE)

    def synergy_code(self, run: Run) -> str:
        """Return the digest of the code of that pass."""
        return self.run_code(run, "synergy_outputs")

    @remembered
    def continual_job(self, run: ContinualRun) -> str:
        """Return the settings of a run's training."""
        strategy = self.strategies[run.strategy]
        return self._continual_job(
            run,
            student=self.model(run.student).model_copy(update={"recipe": {}}),
            teachers=self._frozen(tuple(self.taught_by(run))),
            recipe=self._strategy_recipe(strategy),
            strategy=strategy.model_copy(update={"recipe": {}}),
        )

    @remembered
    def matrix_job(self, run: ContinualRun) -> str:
        """Return the settings of a run's evaluation."""
        return self._continual_job(run, student=self._frozen((run.student,))[0], recipe=self._reading())

    def continual_code(self, run: ContinualRun) -> str:
        """Return the digest of the code that trains a run."""
        networks = self.model_modules(run.student, *self.taught_by(run))
        return code_digest({"continual_run", *networks})

    def matrix_code(self, run: ContinualRun) -> str:
        """Return the digest of the code that evaluates a run."""
        return code_digest({"continual_matrix", *self.model_modules(run.student)})

    def _continual_job(self, run: ContinualRun, **fields: Any) -> str:
        assert self.continual is not None, "only an experiment with a section continual has such runs"
        job = ContinualJobSettings(
            dataset=self._loading(run.dataset),
            environment=self._environment,
            seed=run.seed,
            split_seed=self.teacher_seed(run.seed),
            num_tasks=self.continual.num_tasks,
            class_order=self.continual.class_order,
            **fields,
        )
        return canonical(job.model_dump(mode="json"))

    def _strategy_recipe(self, strategy: Strategy) -> Recipe:
        assert self.continual is not None
        return _recipe(self.experiment, self.continual, strategy)

    def _check_targets(self, strategy: Strategy) -> None:
        targets, where = strategy.targets, f"continual.strategies: targets of {strategy.name}"
        assert self.continual is not None
        if targets is None:
            return
        if targets == TEACHER:
            if self.continual.teacher is None:
                raise UserError(f"{where} is 'teacher', but continual.teacher names none")
            return
        chains = [name for name, variant in self.variants.items() if variant.chain]
        if targets not in chains:
            raise unknown(f"{where}, a chain of methods:", targets, [TEACHER, *chains])
        if len(self.experiment.pairs) != 1:
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


def _recipe(experiment: Experiment, section: Continual, strategy: Strategy, where: str = "") -> Recipe:
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

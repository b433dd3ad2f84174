"""The runs of an experiment and its groups: which there are, who teaches whom, what an analysis puts side by side."""

from collections.abc import Hashable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

from kd.schema.cards import card
from kd.schema.config import Experiment, ModelSettings, Pair, Recipe
from kd.study.continual import ContinualPlan, ContinualRun
from kd.study.designs import Design, designs
from kd.study.digests import canonical
from kd.study.experiment import merged_recipe, model_settings, student_recipe, variants
from kd.study.runs import Run, Taught, Teacher
from kd.study.search import Searches, trials_of
from kd.study.variant import Variant
from kd.tools.errors import UserError
from kd.tools.memo import remembered

RESULTS = "results"


class Plan:
    """What an experiment trains, and how that is grouped."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.known: dict[Hashable, Any] = {}
        self.folder = f"{RESULTS}/{experiment.experiment}"
        listed = [(*one.lineage, *trials_of(experiment.search, one)) for one in variants(experiment)]
        self.variants: dict[str, Variant] = {one.folder: one for several in listed for one in several}
        """By folder: what the experiment lists, links of a chain of runs before it, a search's trials behind it."""
        chains = [name for name, variant in self.variants.items() if variant.chain]
        self.continual = ContinualPlan(experiment, self.student_datasets, chains)
        """The class-incremental runs beside the others, if there are any."""
        self.searches = Searches(experiment.search, self.variants, self.runs)
        for run in self.runs:
            check_view(self, run)

    # --- runs and groups ------------------------------------------------------------------------

    @cached_property
    def runs(self) -> list[Run]:
        """Return every student run once; pairs that share one list it once."""
        return list(dict.fromkeys(run for _, _, run in self.grouped()))

    @cached_property
    def student_datasets(self) -> list[str]:
        """Return the data sets that students are trained on."""
        return [name for name in self.experiment.datasets if name != self.experiment.teacher_dataset]

    @cached_property
    def groups(self) -> list[tuple[str, str]]:
        """Return every comparison group: data set and pair name."""
        pairs = [pair.name for pair in self.experiment.pairs]
        return [(dataset, pair) for dataset in self.student_datasets for pair in dict.fromkeys(pairs)]

    def grouped(self) -> Iterator[tuple[str, Pair, Run]]:
        """Yield every comparison group's runs: data set, pair, run."""
        for dataset in self.student_datasets:
            for pair in self.experiment.pairs:
                for variant in (one for one in self.variants.values() if not one.trial):
                    for seed in self.experiment.seeds:
                        yield dataset, pair, self.run_of(dataset, pair, variant, seed)

    def run_of(self, dataset: str, pair: Pair, variant: Variant, seed: int) -> Run:
        """Return the run of one method in a comparison group: one-teacher methods take the first teacher."""
        many = {"none": (), "one": (variant.teacher or pair.teachers[0],), "many": tuple(pair.teachers)}
        return Run(dataset, many[variant.teachers], variant.network or pair.student, variant.folder, seed)

    def place(self, trained: Run | Teacher | ContinualRun) -> str:
        """Return the folder of what is trained."""
        return f"{self.folder}/{trained.path}"

    @cached_property
    def designs(self) -> list[Design]:
        """Return what the experiment's own analysis puts side by side, a table and a figure each."""
        listed = {variant.name: variant for variant in self.variants.values() if variant.last}
        return designs(self.experiment, listed, self.student_datasets)

    # --- who teaches ----------------------------------------------------------------------------

    @remembered
    def taught(self, run: Run) -> Taught:
        """Return a run's student with who teaches it: the link before it in a chain of runs, or its pair's teachers."""
        if self.variants[run.method].after is not None:
            before = self.lineage(run)[-1]
            return Taught(run.student, (Teacher(before.student, before.dataset, before.seed, before),))
        return Taught(run.student, tuple(self.teacher(run.dataset, name, run.seed) for name in run.teachers))

    def teacher(self, dataset: str, name: str, seed: int) -> Teacher:
        """Return the teacher that students of this data set and seed learn from."""
        return Teacher(name, self.experiment.teacher_dataset or dataset, self.teacher_seed(seed))

    @cached_property
    def teachers(self) -> list[Teacher]:
        """Return every teacher of a pair."""
        names = dict.fromkeys(name for pair in self.experiment.pairs for name in pair.teachers)
        datasets, seeds = self.student_datasets, self.teacher_seeds
        found = [self.teacher(dataset, name, seed) for dataset in datasets for name in names for seed in seeds]
        return list(dict.fromkeys(found))

    def teacher_seed(self, seed: int) -> int:
        """Return the seed of the teacher (and of the split) that a student of this seed learns from."""
        fixed = self.experiment.teacher_seed
        return seed if fixed == "same" else fixed

    @cached_property
    def teacher_seeds(self) -> list[int]:
        """Return every seed that teachers are trained with."""
        return list(dict.fromkeys(self.teacher_seed(seed) for seed in self.experiment.seeds))

    def lineage(self, run: Run) -> list[Run]:
        """Return the runs that a run learns from, directly or not, in the order of training: chains of runs only."""
        *before, _ = self.variants[run.method].lineage
        return [replace(run, student=one.network or run.student, method=one.folder) for one in before]

    def ensemble_runs(self, run: Run) -> list[Run]:
        """Return the earlier links whose predictions are averaged with a run's own."""
        if not self.variants[run.method].ensemble:
            return []
        return [one for one in self.lineage(run) if self.variants[one.method].linked]

    def reads_outputs(self, run: Run) -> bool:
        """Whether a run asks its teachers about one fixed view of every image only."""
        fixed = any(card(name).fixed_teacher for name, _ in self.variants[run.method].parts)
        return bool(run.teachers) and (fixed or self.recipe_of(run).teacher_view == "fixed")

    # --- networks and recipes -------------------------------------------------------------------

    @cached_property
    def networks(self) -> list[str]:
        """Return the names of all networks that learn or teach, those of the pairs first."""
        names = [name for pair in self.experiment.pairs for name in (*pair.teachers, pair.student)]
        names += [run.student for run in self.runs]
        return list(dict.fromkeys([*names, *self.continual.students, *self.continual.teachers]))

    @cached_property
    def built_as(self) -> dict[str, str]:
        """Return for each network's name the first one that is built the same: what is measured once."""
        first: dict[str, str] = {}
        texts = {name: canonical(self.built(name).model_dump(mode="json")) for name in self.networks}
        return {name: first.setdefault(text, name) for name, text in texts.items()}

    @remembered
    def model(self, name: str) -> ModelSettings:
        """Return the settings behind a network's name."""
        return model_settings(self.experiment, name)

    @remembered
    def built(self, name: str) -> ModelSettings:
        """Return what rebuilds a trained network: its weights come from a file of the workflow."""
        return ModelSettings(arch=self.model(name).arch, small_input=self.model(name).small_input)

    def recipe_of(self, run: Run) -> Recipe:
        """Return the recipe of a student's training."""
        return self._recipe(run.student, run.method)

    @remembered
    def _recipe(self, student: str, method: str) -> Recipe:
        return student_recipe(self.experiment, student, self.variants[method])

    @remembered
    def teacher_recipe(self, teacher: str) -> Recipe:
        """Return the recipe of a teacher's training."""
        base = self.experiment.teacher_recipe or self.experiment.recipe
        return merged_recipe(base, self.model(teacher).recipe, f"models.{teacher}.recipe")

    @cached_property
    def packed_as(self) -> dict[str, str]:
        """Return for each data set the first one that packs the same arrays."""
        first: dict[str, str] = {}
        texts = {name: canonical(settings.packing()) for name, settings in self.experiment.datasets.items()}
        return {name: first.setdefault(text, name) for name, text in texts.items()}

    def meta(self) -> dict[str, Any]:
        """Return what tables and page say about the experiment."""
        content = self.experiment.model_dump(mode="json")
        keys = ("experiment", "description", "datasets", "seeds", "teacher_seed", "recipe", "search")
        names = [name for pair in self.experiment.pairs for name in (*pair.teachers, pair.student)]
        networks = {name: self.model(name) for name in names}
        return {
            **{key: content[key] for key in keys},
            "archs": {name: network.arch for name, network in networks.items()},
            "pretrained": [name for name, network in networks.items() if network.pretrained],
            "finished": [name for name, network in networks.items() if not network.train],
            "class_shares": [name for name, network in networks.items() if network.classes],
            "searched": [name for name, one in self.variants.items() if one.searched and not one.trial],
        }


def families(plan: Plan) -> dict[str, str]:
    """Return the family of each base method."""
    return {variant.base: variant.family for variant in plan.variants.values()}


def check_view(plan: Plan, run: Run) -> None:
    """Refuse what one fixed view cannot serve: teachers that are trained, and an augmentation of the run's own."""
    variant = plan.variants[run.method]
    if not (plan.reads_outputs(run) or (variant.linked and plan.recipe_of(run).teacher_view == "fixed")):
        return
    if variant.chain or variant.linked:
        raise UserError(f"methods.{variant.name} trains its teachers: set teacher_view: live in its recipe")
    if plan.recipe_of(run).augmentation != plan.experiment.recipe.augmentation:
        raise UserError(
            f"methods.{run.method} for student {run.student} learns from one fixed view of every image, which is "
            "drawn with the experiment's recipe.augmentation: its own recipe may not change augmentation"
        )

"""The runs of an experiment: which jobs there are, where they write, what each depends on."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from kd.schema.architectures import modules_of
from kd.schema.cards import card
from kd.schema.config import Experiment, ModelSettings, Pair, Recipe
from kd.study.chain import stage_settings, stages
from kd.study.contents import Contents, contents_of
from kd.study.designs import Design, designs
from kd.study.digests import canonical, code_digest, text_digest
from kd.study.experiment import merged_recipe, model_settings, student_recipe, variants
from kd.study.job_settings import JobSettings, MethodPart
from kd.study.made import read_record
from kd.study.resources import UNKNOWN_SOURCE, training_images
from kd.study.variant import Variant
from kd.tools.errors import UserError
from kd.tools.memo import remembered

RESULTS = "results"
NO_TEACHER = "none"
TUNED_FROM = 50_000
"""Images that a training sees, epochs counted, from which a measurement of its networks earns its minute back."""


@dataclass(frozen=True)
class Run:
    """One trained student: a wildcard combination of the workflow."""

    dataset: str
    teachers: tuple[str, ...]
    student: str
    method: str
    seed: int

    @property
    def team(self) -> str:
        """Return 'teacher+teacher--student'."""
        return f"{'+'.join(self.teachers) or NO_TEACHER}--{self.student}"

    @property
    def path(self) -> str:
        """Return the run's folder below the experiment's."""
        return f"{self.dataset}/{self.team}/{self.method}/seed{self.seed}"


class Plan:
    """Everything the workflow asks about an experiment."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.known: dict[Hashable, Any] = {}
        self.variants: dict[str, Variant] = {
            variant.folder: variant for listed in variants(experiment) for variant in listed.lineage
        }
        """By name of the folder: what the experiment lists, a chain of runs link by link before its last."""
        self.folder = f"{RESULTS}/{experiment.experiment}"
        for run in self.runs:
            self._check_outputs(run)

    # --- which runs there are -------------------------------------------------------------------

    @cached_property
    def runs(self) -> list[Run]:
        """Return every student run once; pairs that share one list it once."""
        return list(dict.fromkeys(run for _, _, run in self.grouped()))

    @cached_property
    def student_datasets(self) -> list[str]:
        """Return the data sets that students are trained on."""
        return [name for name in self.experiment.datasets if name != self.experiment.teacher_dataset]

    def teachers_dataset(self, dataset: str) -> str:
        """Return the data set on which the teachers of a data set's students are trained."""
        return self.experiment.teacher_dataset or dataset

    def grouped(self) -> Iterator[tuple[str, Pair, Run]]:
        """Yield every comparison group's runs: data set, pair, run."""
        for dataset in self.student_datasets:
            for pair in self.experiment.pairs:
                for variant in self.variants.values():
                    for seed in self.experiment.seeds:
                        yield dataset, pair, self.run_of(dataset, pair, variant, seed)

    def run_of(self, dataset: str, pair: Pair, variant: Variant, seed: int) -> Run:
        """Return the run of one method in a comparison group: one-teacher methods take the first teacher."""
        many = {"none": (), "one": (variant.teacher or pair.teachers[0],), "many": tuple(pair.teachers)}
        return Run(dataset, many[variant.teachers], variant.network or pair.student, variant.folder, seed)

    def lineage(self, run: Run) -> list[Run]:
        """Return the runs that a run learns from, directly or not, in the order of training: chains of runs only."""
        *before, _ = self.variants[run.method].lineage
        return [replace(run, student=one.network or run.student, method=one.folder) for one in before]

    def teacher_seed(self, seed: int) -> int:
        """Return the seed of the teacher (and of the split) that a student of this seed learns from."""
        fixed = self.experiment.teacher_seed
        return seed if fixed == "same" else fixed

    @cached_property
    def teacher_seeds(self) -> list[int]:
        """Return every seed that teachers are trained with."""
        return list(dict.fromkeys(self.teacher_seed(seed) for seed in self.experiment.seeds))

    @cached_property
    def teachers(self) -> list[tuple[str, str, int]]:
        """Return every trained teacher: data set, name, seed."""
        names = dict.fromkeys(name for pair in self.experiment.pairs for name in pair.teachers)
        datasets = dict.fromkeys(self.teachers_dataset(dataset) for dataset in self.student_datasets)
        return [(dataset, name, seed) for dataset in datasets for name in names for seed in self.teacher_seeds]

    @cached_property
    def groups(self) -> list[tuple[str, str]]:
        """Return every comparison group: data set and pair name."""
        pairs = [pair.name for pair in self.experiment.pairs]
        return [(dataset, pair) for dataset in self.student_datasets for pair in dict.fromkeys(pairs)]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what `collect` needs of every row of runs.csv: teachers first, then students, group by group."""
        return (row for row, _ in self.listed())

    def listed(self) -> Iterator[tuple[dict[str, Any], Run]]:
        """Yield every row with its run; a teacher's is of the data set that teachers learn from."""
        for dataset in self.student_datasets:
            for pair in self.experiment.pairs:
                for name in pair.teachers:
                    for seed in self.teacher_seeds:
                        run = Run(dataset, (), name, "teacher", seed)
                        trained = replace(run, dataset=self.teachers_dataset(dataset))
                        yield self._row(dataset, pair, run, "teacher", "ce"), trained
        for dataset, pair, run in self.grouped():
            variant = self.variants[run.method]
            yield self._row(dataset, pair, run, "student" if variant.last else "link", variant.base), run

    def _row(self, dataset: str, pair: Pair, run: Run, kind: str, base: str) -> dict[str, Any]:
        student = kind != "teacher"
        variant = self.variants[run.method] if student else None
        return {
            "experiment": self.experiment.experiment,
            "dataset": dataset,
            "pair": pair.name,
            "teachers": "+".join(run.teachers) or NO_TEACHER,
            "student": run.student,
            "method": variant.name if variant and variant.last else run.method,
            "base_method": base,
            "seed": run.seed,
            "path": f"{self.folder}/{run.path}" if student else self._trained(dataset, run.student, run.seed),
            "teacher_paths": [self.teacher_folder(dataset, name, run.seed) for name in run.teachers],
            "prestage_paths": self._before(run) if student else [],
            "taught_by": self.teaching_folders(run) if student else [],
            "kind": kind,
        }

    def _before(self, run: Run) -> list[str]:
        """Return the folders of all that was made for a run beside its teachers: pre-stages, outputs, earlier links."""
        earlier = self.lineage(run)
        made = [folder for one in (*earlier, run) for folder in self._prepared(one)]
        return list(dict.fromkeys([*made, *(f"{self.folder}/{one.path}" for one in earlier)]))

    def _prepared(self, run: Run) -> list[str]:
        return [*self.pretrain_folders(run), *self.outputs_folders(run)]

    def cards_digest(self) -> str:
        """Return the digest of the cards that tables quote."""
        names = {"ce"} | {name for variant in self.variants.values() for name, _ in variant.parts}
        return text_digest(canonical({name: card(name).model_dump(mode="json") for name in names}))

    def meta(self) -> dict[str, Any]:
        """Return what tables and page say about the experiment."""
        content = self.experiment.model_dump(mode="json")
        keys = ("experiment", "description", "datasets", "seeds", "teacher_seed", "recipe")
        names = [name for pair in self.experiment.pairs for name in (*pair.teachers, pair.student)]
        networks = {name: self.model(name) for name in names}
        return {
            **{key: content[key] for key in keys},
            "archs": {name: network.arch for name, network in networks.items()},
            "pretrained": [name for name, network in networks.items() if network.pretrained],
            "finished": [name for name, network in networks.items() if not network.train],
            "class_shares": [name for name, network in networks.items() if network.classes],
        }

    @cached_property
    def designs(self) -> list[Design]:
        """Return what the experiment's own analysis puts side by side, a table and a figure each."""
        listed = {variant.name: variant for variant in self.variants.values() if variant.last}
        return designs(self.experiment, listed, self.student_datasets)

    # --- where what a run starts from is kept ---------------------------------------------------

    def data_folder(self, dataset: str) -> str:
        """Return where a data set's arrays are packed: once for all data sets that pack the same."""
        return f"{self.folder}/{self.packed_as(dataset)}/data"

    def packed_as(self, dataset: str) -> str:
        """Return the first data set that packs the same arrays."""
        return self._packed_as[dataset]

    @cached_property
    def _packed_as(self) -> dict[str, str]:
        first: dict[str, str] = {}
        return {name: first.setdefault(self.data_settings(name), name) for name in self.experiment.datasets}

    def teacher_folder(self, dataset: str, teacher: str, seed: int) -> str:
        """Return where the teacher that a student of this seed learns from is kept."""
        return self._trained(dataset, teacher, self.teacher_seed(seed))

    def teaching_folders(self, run: Run) -> list[str]:
        """Return the folders of the trained networks that teach a run: the pair's teachers, or the link before it."""
        if self.variants[run.method].after is not None:
            return [f"{self.folder}/{self.lineage(run)[-1].path}"]
        return [self.teacher_folder(run.dataset, name, run.seed) for name in run.teachers]

    def ensemble_runs(self, run: Run) -> list[Run]:
        """Return the earlier links whose predictions are averaged with a run's own."""
        if not self.variants[run.method].ensemble:
            return []
        return [one for one in self.lineage(run) if self.variants[one.method].linked]

    def pretrain_folders(self, run: Run) -> list[str]:
        """Return where what the method prepares on the teacher is kept, if it prepares anything."""
        if not self.variants[run.method].pretrain:
            return []
        home = f"{self.folder}/{run.dataset}/pretrain/{run.teachers[0]}"
        return [f"{home}/{run.method}/seed{self.teacher_seed(run.seed)}"]

    def outputs_folders(self, run: Run) -> list[str]:
        """Return where the teachers' outputs that a run reads are kept, teacher by teacher; none if it reads none."""
        if not self.reads_outputs(run):
            return []
        home, seed = f"{self.folder}/{run.dataset}/teacher_outputs", self.teacher_seed(run.seed)
        return [f"{home}/{name}/seed{seed}" for name in run.teachers]

    def reads_outputs(self, run: Run) -> bool:
        """Whether a run asks its teachers about one fixed view of every image only."""
        fixed = any(card(name).fixed_teacher for name, _ in self.variants[run.method].parts)
        return bool(run.teachers) and (fixed or self.recipe_of(run).teacher_view == "fixed")

    def _trained(self, dataset: str, teacher: str, seed: int) -> str:
        return f"{self.folder}/{self.teachers_dataset(dataset)}/teachers/{teacher}/seed{seed}"

    def _check_outputs(self, run: Run) -> None:
        """Refuse what one fixed view cannot serve: teachers that are trained, and an augmentation of the run's own."""
        variant = self.variants[run.method]
        if not (self.reads_outputs(run) or (variant.linked and self.recipe_of(run).teacher_view == "fixed")):
            return
        if variant.chain or variant.linked:
            raise UserError(f"methods.{variant.name} trains its teachers: set teacher_view: live in its recipe")
        if self.recipe_of(run).augmentation != self.experiment.recipe.augmentation:
            raise UserError(
                f"methods.{run.method} for student {run.student} learns from one fixed view of every image, which is "
                "drawn with the experiment's recipe.augmentation: its own recipe may not change augmentation"
            )

    # --- what a job depends on ------------------------------------------------------------------

    @remembered
    def contents(self, dataset: str) -> Contents:
        """Return what there is to pack now: its digest, and about how many training images.

        Where nothing is, the number is that of when it was packed: results are judged alike where the images are gone.
        """
        if (first := self.packed_as(dataset)) != dataset:
            return self.contents(first)
        found = contents_of(self.experiment.datasets[dataset])
        if found.digest is None and found.train_images is None:
            record = read_record(f"{self.folder}/{dataset}/data/made/prepare_data.json") or {}
            if isinstance(images := record.get("train_images"), int):
                return Contents(None, images)
        return found

    @remembered
    def training_images(self, dataset: str) -> int:
        """Return about how many images a training reads; of archives, whose sizes tell only the most, not too many."""
        settings, counted = self.experiment.datasets[dataset], self.contents(dataset).train_images
        if settings.archives and counted is not None:
            counted = min(counted, max(UNKNOWN_SOURCE, settings.subset_size or 0))
        return training_images(settings.source, settings.subset_size, counted)

    def data_settings(self, dataset: str) -> str:
        """Return what decides the packed arrays of a data set."""
        return canonical(self.experiment.datasets[dataset].packing())

    @remembered
    def model(self, name: str) -> ModelSettings:
        """Return the settings behind a network's name."""
        return model_settings(self.experiment, name)

    @remembered
    def teacher_job(self, dataset: str, teacher: str, seed: int) -> str:
        """Return the settings of a teacher's training."""
        model, recipe = self.model(teacher), self.teacher_recipe(teacher)
        part = MethodPart(card="ce", settings=card("ce").resolve({}, "ce").model_dump(mode="json"))
        return self._job(dataset, student=_network(model), method=[part], recipe=recipe, seed=seed, split_seed=seed)

    @remembered
    def teacher_recipe(self, teacher: str) -> Recipe:
        """Return the recipe of a teacher's training."""
        base = self.experiment.teacher_recipe or self.experiment.recipe
        return merged_recipe(base, self.model(teacher).recipe, f"models.{teacher}.recipe")

    @remembered
    def pretrain_job(self, dataset: str, teacher: str, method: str, seed: int) -> str:
        """Return the settings of a method's pre-stage; the seed is the teacher's."""
        variant = self.variants[method]
        parts = [self._part(name, settings) for name, settings in variant.parts if card(name).pretrain]
        recipe = self.pretrain_recipe(method)
        teachers = [_built(self.model(teacher))]
        return self._job(dataset, teachers=teachers, method=parts, recipe=recipe, seed=seed, split_seed=seed)

    @remembered
    def pretrain_recipe(self, method: str) -> Recipe:
        """Return the recipe of a method's pre-stage."""
        # there is no student yet whose view a fixed one could differ from
        changes = {**self.variants[method].recipe, "teacher_view": "live"}
        return merged_recipe(self.experiment.recipe, changes, f"methods.{method}.recipe")

    @remembered
    def outputs_job(self, dataset: str, teacher: str, seed: int) -> str:
        """Return the settings of a teacher's pass over one fixed view of the training images; the seed is its own."""
        teachers = [_built(self.model(teacher))]
        return self._job(dataset, teachers=teachers, recipe=self._reading(), seed=0, split_seed=seed)

    @remembered
    def student_job(self, run: Run) -> str:
        """Return the settings of a student's training."""
        return self._student(run, self._parts(run.method))

    @remembered
    def _parts(self, method: str) -> list[MethodPart]:
        return [self._part(*part) for part in self.variants[method].parts]

    def half_job(self, run: Run, stage: int, half: str) -> str:
        """Return the settings of one half of one stage of a chain."""
        ((name, settings),) = self.variants[run.method].parts
        part = self._part(name, stage_settings(settings, stage, half, self.recipe_of(run).epochs))
        return self._student(run, [part], stage=stage, half=half)

    def stages(self, method: str) -> int:
        """Return how many stages a chain has."""
        ((_, settings),) = self.variants[method].parts
        return stages(settings)

    @remembered
    def evaluation_job(self, dataset: str, network: str, seed: int, teacher: bool = False) -> str:
        """Return the settings of the evaluation of a trained network; a teacher's seed is its own."""
        model = _built(self.model(network))
        split_seed = seed if teacher else self.teacher_seed(seed)
        return self._job(dataset, student=model, recipe=self._reading(), seed=0, split_seed=split_seed)

    def _reading(self) -> Recipe:
        """Return what of the recipe decides how a finished network reads images."""
        recipe = self.experiment.recipe
        same = {"eval_batch_size", "precision", "channels_last", "kernels", "augmentation", "deterministic"}
        return Recipe(epochs=1, **{key: getattr(recipe, key) for key in same})

    def _student(self, run: Run, parts: list[MethodPart], **more: Any) -> str:
        model, recipe = self.model(run.student), self.recipe_of(run)
        split_seed = self.teacher_seed(run.seed)
        return self._job(
            run.dataset,
            student=_network(model),
            teachers=self._frozen(self.teaching(run)),
            method=parts,
            recipe=recipe,
            seed=run.seed,
            split_seed=split_seed,
            **more,
        )

    def teaching(self, run: Run) -> tuple[str, ...]:
        """Return the names of the networks that teach a run."""
        return run.teachers if self.variants[run.method].after is None else (self.lineage(run)[-1].student,)

    @remembered
    def _frozen(self, teachers: tuple[str, ...]) -> list[ModelSettings]:
        return [_built(self.model(name)) for name in teachers]

    def recipe_of(self, run: Run) -> Recipe:
        """Return the recipe of a student's training."""
        return self._recipe(run.student, run.method)

    @remembered
    def _recipe(self, student: str, method: str) -> Recipe:
        return student_recipe(self.experiment, student, self.variants[method])

    def _job(self, dataset: str, **fields: Any) -> str:
        job = JobSettings(dataset=self._loading(dataset), environment=self._environment, **fields)
        return canonical(job.model_dump(mode="json"))

    @remembered
    def _loading(self, dataset: str) -> dict[str, Any]:
        return self.experiment.datasets[dataset].loading()

    @cached_property
    def _environment(self) -> dict[str, str]:
        if not self.experiment.strict_environment:
            return {}
        from importlib.metadata import version

        return {name: version(name) for name in ("torch", "torchvision", "timm")}

    @staticmethod
    def _part(name: str, settings: dict[str, Any]) -> MethodPart:
        return MethodPart(card=name, settings=settings)

    def initial_weights(self, network: str) -> list[str]:
        """Return the file that a network starts from, if it is one."""
        pretrained = self.model(network).pretrained
        return [pretrained] if isinstance(pretrained, str) else []

    # --- how networks run -----------------------------------------------------------------------

    @cached_property
    def architectures(self) -> dict[str, str]:
        """Return for each network's name the first one that is built the same: what is measured once."""
        names = [name for pair in self.experiment.pairs for name in (*pair.teachers, pair.student)]
        # a chain of runs also trains networks that stand in no pair
        names += [run.student for run in self.runs]
        first: dict[str, str] = {}
        built = {name: canonical(_built(self.model(name)).model_dump(mode="json")) for name in names}
        return {name: first.setdefault(text, name) for name, text in built.items()}

    def tuned_networks(self, dataset: str, names: tuple[str, ...], recipe: Recipe) -> list[str]:
        """Return the networks whose measured modes a training with such networks reads, in order; maybe none."""
        if recipe.precision != "auto" or not self._worth_tuning(dataset):
            return []
        return [self.architectures[name] for name in names]

    @remembered
    def _worth_tuning(self, dataset: str) -> bool:
        """Whether trainings are long enough to measure their networks first; the same for all of a data set's runs."""
        recipes = [self.experiment.recipe, self.experiment.teacher_recipe or self.experiment.recipe]
        return self.training_images(dataset) * max(recipe.epochs for recipe in recipes) >= TUNED_FROM

    def tune_job(self, dataset: str, network: str) -> str:
        """Return the settings of the measurement of a network."""
        keys = ("epochs", "batch_size", "channels_last", "kernels", "deterministic")
        recipe = Recipe(precision="auto", **{key: getattr(self.experiment.recipe, key) for key in keys})
        device = {"device": "gpu" if self.experiment.gpus else "cpu"}
        student = _built(self.model(network))
        job = JobSettings(dataset=self._loading(dataset), student=student, recipe=recipe, seed=0, split_seed=0)
        return canonical({**job.model_dump(mode="json"), "environment": {**self._environment, **device}})

    def tune_code(self, network: str) -> str:
        """Return the digest of the code that measures a network."""
        return code_digest({"tune", *self.model_modules(network)})

    # --- which code a job runs ------------------------------------------------------------------

    def model_modules(self, *names: str) -> set[str]:
        """Return the modules that build the named networks."""
        return {module for name in names for module in modules_of(self.model(name).arch)}

    def method_modules(self, method: str) -> set[str]:
        """Return the modules of a method's losses."""
        return {card(name).module for name, _ in self.variants[method].parts}

    def data_code(self, dataset: str) -> str:
        """Return the digest of the code that packs a data set."""
        return code_digest({"prepare_data", f"kd.data.sources.{self.experiment.datasets[dataset].source}"})

    def teacher_code(self, teacher: str) -> str:
        """Return the digest of the code that trains a teacher."""
        return code_digest({"train_teacher", card("ce").module, *self.model_modules(teacher)})

    def run_code(self, run: Run, *scripts: str) -> str:
        """Return the digest of the code that some scripts run with a student, its teachers and its method."""
        networks = self.model_modules(run.student, *self.teaching(run))
        return code_digest({*scripts, *self.method_modules(run.method), *networks})

    def pretrain_code(self, teacher: str, method: str) -> str:
        """Return the digest of the code of a method's pre-stage."""
        modules = {card(name).module for name, _ in self.variants[method].parts if card(name).pretrain}
        return code_digest({"pretrain_method", *modules, *self.model_modules(teacher)})

    def outputs_code(self, teacher: str) -> str:
        """Return the digest of the code that asks a teacher about the fixed view."""
        return code_digest({"teacher_outputs", *self.model_modules(teacher)})

    def evaluation_code(self, network: str, script: str = "evaluate") -> str:
        """Return the digest of the code that evaluates a network."""
        return code_digest({script, *self.model_modules(network)})


def _network(model: ModelSettings) -> ModelSettings:
    """Drop what the job's recipe already holds."""
    return model.model_copy(update={"recipe": {}})


def _built(model: ModelSettings) -> ModelSettings:
    """Keep what is needed to rebuild a trained network: its weights come from a file of the workflow."""
    return ModelSettings(arch=model.arch, small_input=model.small_input)

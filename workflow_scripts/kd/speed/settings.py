"""What a benchmark is asked to time."""

import os
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from kd.schema.cards import card, card_names, load_cards
from kd.schema.config import Count, Strict
from kd.study.experiment import check_experiment, checked
from kd.study.plan import Plan
from kd.tools.errors import UserError

DATASET = "images"
LOOPS = ("reference", "engine")
PARTS = ("speed", "switches", "contrast", "scale", "runs", "recipe", "accuracy", "anchor")
"""What can be measured, each by itself."""
STEP_PARTS = ("data", "teacher", "student", "loss", "optimiser", "host")
"""Where a step's time goes."""

Entry = str | dict[str, Any]
"""A method as an experiment file names it."""


class Settings(Strict):
    """One comparison: networks, methods, batches, images and how often."""

    teachers: list[str] = Field(default=["resnet32x4"], min_length=1)
    student: str = "resnet8x4"
    methods: list[Entry] = Field(default=["kd"], min_length=1)
    """Card names, or entries as in an experiment file."""
    batch_size: int = Field(default=64, ge=2)
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """What the engine runs in; the reference loop is always fp32."""
    recipe: dict[str, Any] = {}
    """Further recipe keys of the engine, such as {channels_last: false}."""
    images: int = Field(default=1024, ge=1)
    """Images trained on in each repeat by each loop, rounded up to whole batches."""
    repeats: int = Field(default=5, ge=1)
    data: list[str] = []
    """'digits', one folder of images, or archives of an image folder tree; with nothing: synthetic images."""
    weights: list[str] = []
    """Trained teachers; without them, teachers are as initialised, or trained where accuracies are compared."""
    train_images: Count | None = None
    """Training images used, the validation part included; None: all there are, and 50,000 synthetic ones."""
    classes: int = Field(default=100, ge=2)
    """Classes of synthetic images."""
    image_size: int = Field(default=32, ge=4)
    """Side of synthetic images in pixels."""
    augment: bool = True
    """Random crop of the image padded by 4 and horizontal flip; without it images stay as they are."""
    workers: int = Field(default_factory=lambda: usable_cores(), ge=0)
    """Processes that prepare images for the reference loop."""
    epochs: int = Field(default=240, ge=1)
    """Length of the recipe: it decides schedules, not how long is timed."""
    validation: float = Field(default=0.02, gt=0, lt=1)
    """Share of the training images that an evaluation is timed on."""
    accuracy_epochs: int = Field(default=8, ge=1)
    """Epochs of each training where accuracies are compared or stated."""
    seeds: int = Field(default=3, ge=1)
    """Seeds of that comparison, and of the anchor."""
    target: float = Field(default=90.0, gt=0, lt=100)
    """Validation top-1 in percent to which the anchor's training is timed."""
    counts: list[Count] = Field(default=[1, 2, 4, 8], min_length=1)
    """How many runs are trained side by side; gains are against the first of these."""

    @property
    def steps(self) -> int:
        """Return how many batches a repeat has."""
        return -(-self.images // self.batch_size)

    @property
    def pair(self) -> str:
        """Return 'teacher + teacher → student'."""
        return f"{' + '.join(self.teachers)} → {self.student}"

    def plan(self, entries: Sequence[Entry], reference: bool, seed: int = 0) -> Plan:
        """Return the experiment of some methods, as the engine is given it or as the reference loop runs it."""
        plain = {"precision": "fp32", "channels_last": False, "kernels": "torch"}
        recipe = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "milestones": [0.625, 0.75, 0.875],  # 150, 180 and 210 of 240
            "augmentation": {} if self.augment else {"crop": "none", "flip": False},
            **(plain if reference else {"precision": self.precision, **self.recipe}),
        }
        content = {
            "experiment": "speed",
            "datasets": {DATASET: {"source": "digits", "validation": self.validation}},
            "pairs": [{"teachers": self.teachers, "student": self.student}],
            "methods": list(entries),
            "seeds": [seed],
            "teacher_seed": 0,
            "recipe": recipe,
        }
        experiment = check_experiment(content)
        # the images are packed already: their source is never read, and how many there are is none of its business
        dataset = experiment.datasets[DATASET].model_copy(update={"subset_size": self.train_images})
        return Plan(experiment.model_copy(update={"datasets": {DATASET: dataset}}))


def parse(**given: Any) -> Settings:
    """Check settings, methods and networks included; the first mistake is one sentence."""
    settings = checked(Settings, {key: value for key, value in given.items() if value is not None}, "")
    for entry in settings.methods:
        _check_no_links(entry)
        settings.plan([entry], reference=False)
    names = [name_of(entry) for entry in settings.methods]
    if len(set(names)) < len(names):
        raise UserError(f"methods must differ, found {names}")
    return settings


def _check_no_links(entry: Entry) -> None:
    name = entry if isinstance(entry, str) else entry.get("method")
    if name in card_names() and card(str(name)).links != "none":
        raise UserError(f"methods: {name} is a chain of runs: time the method of its links, kd")


def name_of(entry: Entry) -> str:
    """Return what a method is called in the results."""
    return entry if isinstance(entry, str) else str(entry.get("name", entry.get("method")))


def method_entries(names: Sequence[str], teachers: int) -> list[Entry]:
    """Return what an experiment file would say for names on the command line.

    'dkd' is a card, 'kd+dot' a combination, 'all' every card that this number of teachers allows.
    """
    listed = [one for name in names for one in (every_method(teachers) if name == "all" else [name])]
    combined = {name: name.split("+") for name in listed if "+" in name}
    return [
        {"name": name.replace("+", "_"), "combine": combined[name]} if name in combined else name for name in listed
    ]


def every_method(teachers: int) -> list[str]:
    """Return every card but chains of runs, whose steps are another card's; those without a loss join kd."""
    single = [one for one in load_cards().values() if one.links == "none"]
    fitting = [one for one in single if one.teachers != "many" or teachers > 1]
    return [one.name if one.alone else f"{card('kd').name}+{one.name}" for one in fitting]


def usable_cores() -> int:
    """Return how many cores this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1

"""A method's training by the engine in the small world of `method_world`, a step at a time."""

from types import SimpleNamespace

import numpy as np
import torch
from method_world import CPU, IMAGES, PLAIN, SIZE, World

from kd.data.augment import Augmenter
from kd.data.store import ImageStore
from kd.engine.checkpoint import ResumeFile
from kd.engine.precision import Precision
from kd.engine.resolve import build_method
from kd.engine.teachers import FrozenForward
from kd.engine.team import equip
from kd.engine.training import Training
from kd.schema.config import Recipe
from kd.study.job_settings import MethodPart

MOVING = {
    "epochs": 4,
    "batch_size": 6,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "grad_clip": 2.0,
    "grad_clip_final": 0.5,
    "grad_clip_hold": 0.1,
    "ema_decay": 0.9,
    "ema_start_decay": 0.5,
    "ema_warmup_epochs": 3.0,
    "label_smoothing": 0.1,
    "augmentation": {"padding": 1, "flip": True, "cutout": 2, "randaugment": {"ops": 1, "magnitude": 5}},
}
"""A recipe in which everything moves from step to step."""


class Scaled(Precision):
    """float32 whose losses are scaled as those of float16 are."""

    def scaler(self):
        return torch.amp.GradScaler("cpu", init_scale=1024.0)


SCALED = Scaled("fp32", CPU)


LAST = {"teacher_keeps": "last"}
"""For worlds without validation images, by which an epoch would be kept."""

SETTINGS = {
    "asib": LAST,
    "asib, cross-fitted": {**LAST, "cross_fit": True, "synergy_base": "certainty", "synergy_scale": "entropy"},
    "asib, published": {"form": "published"},
}
"""Methods with other settings than their cards', by the names that worlds of them have."""


def world_of(name, pretrain=False):
    """Return a method's world; 'a+b' are two methods combined, of which the second adds no network and reads none."""
    first, *others = name.split("+")
    world = World(first.split(",")[0], SETTINGS.get(first, {}), pretrain=pretrain)
    if others:
        world.method = build_method([MethodPart(card=one, settings={}) for one in (first, *others)], 1)
        equip(world.team, world.method, world.context)
    return world


def training_of(world, folder, recipe=None, precision=PLAIN):
    """Return the training of a world's team that has not begun."""
    recipe = Recipe(**{**MOVING, **mixing_of(world), **(recipe or {})})
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
    store = ImageStore(images, world.labels.numpy(), np.arange(IMAGES), CPU, resident=True)
    augmenter = Augmenter(recipe.augmentation, [0.5] * 3, [0.25] * 3)
    data = SimpleNamespace(train=store, augmenter=augmenter, image_size=SIZE)
    frozen = FrozenForward(world.team, precision, world.wants, store, augmenter, world.fixed_logits)
    resume = ResumeFile(folder / "resume.pt", "test")
    torch.manual_seed(1)
    return Training(world.team, world.method, data, recipe, precision, 0, resume, print, frozen)


def mixing_of(world):
    return {"mixup_alpha": 0.4} if world.card.mixed_labels else {}


def at_epoch(training, epoch):
    """Begin some epoch of the stage that the training is in."""
    training.stage_run.epoch = epoch
    training.begin_epoch()

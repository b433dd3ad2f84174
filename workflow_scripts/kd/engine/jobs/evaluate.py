"""Finished weights of one network on the validation and test images."""

from dataclasses import replace
from pathlib import Path

import torch

from kd.engine.data import Data, load_data
from kd.engine.modes import COMPILED, TORCH, Mode, choose_modes
from kd.engine.precision import set_kernels, training_device
from kd.engine.predict import Predictions, predict
from kd.engine.runner import make_trainable
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.models.reuse import redeploy
from kd.models.weights import load_weights, read_state
from kd.schema.config import Recipe
from kd.study.job_settings import JobSettings

FEATURE_IMAGES = 512


def evaluate_network(job: JobSettings, folder: Path, weights: Path, data: Data | None = None) -> dict[str, Predictions]:
    """Return what finished weights make of the validation and test images, as 'val' and 'test'.

    `data` are the job's, where they are loaded already.
    """
    device = training_device()
    set_kernels(job.recipe)
    data = data or load_data(folder, job, device)
    model = finished(job, data, weights)
    mode = evaluation_mode(job.recipe, device)
    make_trainable(model, mode, device)
    precision = mode.on(device)
    stores = {"val": (data.validation, 0), "test": (data.test, FEATURE_IMAGES)}
    return {
        split: predict(
            model, store, data.augmenter, precision, job.recipe.eval_batch_size, features, mode.channels_last
        )
        for split, (store, features) in stores.items()
    }


def evaluation_mode(recipe: Recipe, device: torch.device) -> Mode:
    """Return how finished weights are evaluated: by the recipe, never by what was measured, and never compiled."""
    mode = choose_modes(recipe, device).frozen
    return replace(mode, kernels=TORCH) if mode.kernels == COMPILED else mode


def evaluated_in(job: JobSettings) -> dict[str, str]:
    """Return what evaluation.json says of how its numbers were made."""
    device = training_device()
    return {"device": device.type, "precision": evaluation_mode(job.recipe, device).precision}


def finished(job: JobSettings, data: Data, weights: Path) -> TappedModel:
    """Return a network with finished weights, as it was deployed."""
    assert job.student is not None, "an evaluation names its network"
    model = build_model(job.student.model_copy(update={"pretrained": False}), data.num_classes, data.image_size)
    model = redeploy(model, read_state(weights)[1], data.image_size)
    load_weights(model, weights)
    return model

"""Finished weights of one network on the validation and test images."""

from pathlib import Path

from kd.engine.data import Data, load_data
from kd.engine.modes import evaluation_mode, make_trainable
from kd.engine.precision import set_kernels, training_device
from kd.engine.predict import Predictions, finished, predict
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


def evaluated_in(job: JobSettings) -> dict[str, str]:
    """Return what evaluation.json says of how its numbers were made."""
    device = training_device()
    return {"device": device.type, "precision": evaluation_mode(job.recipe, device).precision}

"""The accuracies of one network on all splits."""

from pathlib import Path

import kd.models.torch_files  # noqa: F401  the weights may be any file that --config ckpt_path names
from kd.engine.data import load_data
from kd.engine.modes import evaluation_mode, make_trainable
from kd.engine.precision import set_kernels, training_device
from kd.engine.predict import finished, predict
from kd.study.job_settings import JobSettings


def evaluate_single(job: JobSettings, folder: Path, weights: Path) -> dict[str, dict[str, float]]:
    """Return top-1 in percent of finished weights on the training, validation and test images, by split."""
    device = training_device()
    set_kernels(job.recipe)
    data = load_data(folder, job, device)
    model, mode = finished(job, data, weights), evaluation_mode(job.recipe, device)
    make_trainable(model, mode, device)
    reading = (data.augmenter, mode.on(device), job.recipe.eval_batch_size)
    found = {}
    for split, store in (("train", data.train), ("val", data.validation), ("test", data.test)):
        made = predict(model, store, *reading, features=0, channels_last=mode.channels_last)
        found[split] = {"top1": 100 * int((made.logits.argmax(1) == made.labels).sum()) / len(made.labels)}
    return found

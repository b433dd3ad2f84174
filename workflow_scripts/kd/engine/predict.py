"""A finished network, built from the file of its weights, and what it makes of a split: logits and features."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kd.data.augment import Augmenter
from kd.data.store import ImageStore
from kd.engine.data import Data
from kd.engine.precision import Precision
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.models.reuse import redeploy
from kd.models.weights import load_trained, read_state
from kd.study.job_settings import JobSettings


@dataclass(frozen=True)
class Predictions:
    """Logits (N,C) float32 of every image of a split in order, labels (N,), pooled features (M,D) of the first M."""

    logits: np.ndarray
    labels: np.ndarray
    features: np.ndarray


def finished(job: JobSettings, data: Data, weights: Path) -> TappedModel:
    """Return the network of an evaluation with finished weights, as it was deployed."""
    assert job.student is not None, "an evaluation names its network"
    model = build_model(job.student.model_copy(update={"pretrained": False}), data.num_classes, data.image_size)
    model = redeploy(model, read_state(weights)[1], data.image_size)
    load_trained(model, weights, data.normalisation)
    return model


@torch.no_grad()
def predict(
    model: TappedModel,
    store: ImageStore,
    augmenter: Augmenter,
    precision: Precision,
    batch_size: int,
    features: int,
    channels_last: bool,
) -> Predictions:
    """Return logits of all images and pooled embeddings of the first `features` of them."""
    model.eval()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    logits, embeddings, labels, kept = [], [], [], 0
    for images, targets, _ in store.batches(torch.arange(len(store)), batch_size):
        wanted = ("embedding",) if kept < features else ()
        batch = augmenter.plain(images).contiguous(memory_format=memory_format)
        with precision.autocast():
            scores, taps = model(batch, wanted)
        logits.append(scores.float().cpu())
        labels.append(targets.cpu())
        if wanted:
            embeddings.append(taps["embedding"].float().cpu())
            kept += len(targets)
    return Predictions(
        torch.cat(logits).numpy(),
        torch.cat(labels).numpy(),
        torch.cat(embeddings)[:features].numpy() if embeddings else np.zeros((0, 0), np.float32),
    )

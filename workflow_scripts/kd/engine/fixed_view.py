"""The one augmented view of the training images that teachers are asked about once, and what they made of it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kd.data.augment import Augmenter
from kd.data.store import ImageStore
from kd.engine.seeds import derived_seed
from kd.models.weights import read_state, save_tensors
from kd.tools.errors import UserError

LOGITS = "logits"
FIXED_VIEW = "fixed view"
DRAWN_AT_ONCE = 500  # part of what the fixed view is: the draws of a batch depend on its size


def fixed_view(store: ImageStore, augmenter: Augmenter, split_seed: int) -> Tensor:
    """Return the one augmented view (n,3,H,W) of every training image that teachers are asked about.

    Its draws depend on the split alone, so that a training sees the images of which the logits were written.
    """
    draws = torch.Generator().manual_seed(derived_seed(split_seed, FIXED_VIEW))
    order = torch.arange(len(store))
    return torch.cat([augmenter.train(images, draws) for images, _, _ in store.batches(order, DRAWN_AT_ONCE)])


def save_outputs(folder: Path, logits: Tensor, split: str) -> None:
    """Write outputs.safetensors: logits (n,C) float32 by position, with the digest of the split that they are of."""
    save_tensors(folder / "outputs.safetensors", {LOGITS: logits}, {"split": split})


def read_outputs(paths: Sequence[Path], split: str | None = None) -> Tensor:
    """Return logits (K,n,C) of K teachers; those of another split (its digest) or of unequal shapes are a UserError."""
    found = []
    for path in paths:
        state, metadata = read_state(path)
        if LOGITS not in state:
            raise UserError(f"{path} holds no teacher outputs, found {', '.join(sorted(state)) or 'nothing'}")
        if split is not None and metadata.get("split") != split:
            raise UserError(f"{path} holds outputs on other training images than this run's: make it anew")
        found.append(state[LOGITS])
    for path, logits in zip(paths, found, strict=True):
        if logits.shape != found[0].shape:
            shapes = f"{tuple(logits.shape)} and {tuple(found[0].shape)}"
            raise UserError(f"{path} and {paths[0]} hold outputs of different shapes, found {shapes}")
    return torch.stack(found)

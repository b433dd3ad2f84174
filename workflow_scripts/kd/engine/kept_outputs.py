"""What teachers made of the fixed view of the training images, as it is kept on disk for the runs that read it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kd.models.weights import read_state, save_tensors
from kd.tools.errors import UserError

LOGITS = "logits"


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

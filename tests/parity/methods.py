"""How the methods compute a parity case.

An adapter takes the case's inputs by name (without "in/") and its parameters, and returns the scalar loss. What a case
does not state is the default of the method's card.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kd.methods.at import at_loss
from kd.methods.crd import Contrast, nce_loss, normaliser, similarities
from kd.methods.ft import ft_loss
from kd.methods.hint import hint_loss
from kd.methods.kd import kd_loss

Inputs = Mapping[str, Tensor]
Params = Mapping[str, Any]
Adapter = Callable[[Inputs, Params], Tensor]


def stages(inputs: Inputs, prefix: str) -> list[Tensor]:
    """Return prefix.0, prefix.1, ... in order."""
    return [inputs[f"{prefix}.{i}"] for i in range(len(inputs)) if f"{prefix}.{i}" in inputs]


def feature_pairs(inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
    """Return the student's and the teacher's maps, shallow to deep."""
    return stages(inputs, "student_feats"), stages(inputs, "teacher_feats")


def kd(inputs: Inputs, params: Params) -> Tensor:
    return kd_loss(inputs["student_logits"], inputs["teacher_logits"], params.get("temperature", 4.0))


def hint(inputs: Inputs, params: Params) -> Tensor:
    return hint_loss(*feature_pairs(inputs))


def at(inputs: Inputs, params: Params) -> Tensor:
    return at_loss(*feature_pairs(inputs), **params)


def ft(inputs: Inputs, params: Params) -> Tensor:
    (student,), (target,) = feature_pairs(inputs)
    return ft_loss(student, target, **params)


def crd(inputs: Inputs, params: Params) -> Tensor:
    """The first call on a batch: Z of each direction comes from this batch."""
    drawn, size = inputs["contrast_index"], len(inputs["memory_student"])
    counts = torch.zeros(len(drawn), size).scatter_add_(1, drawn[:, 1:], torch.ones(drawn[:, 1:].shape))
    contrast = Contrast(positives=drawn[:, 0], images=torch.arange(size), counts=counts)

    def anchored(embedding: Tensor, bank: Tensor) -> Tensor:
        positive, negative = similarities(embedding, bank, contrast, params.get("temperature", 0.07))
        z = normaliser(positive, negative, counts, size)
        return nce_loss(positive, negative, counts, z, (drawn.shape[1] - 1) / size)

    student = anchored(inputs["student_embedding"], inputs["memory_teacher"])
    return student + anchored(inputs["teacher_embedding"], inputs["memory_student"])


ADAPTERS: dict[str, Adapter] = {"kd": kd, "hint": hint, "at": at, "ft": ft, "crd": crd}

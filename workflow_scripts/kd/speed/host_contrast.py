"""Contrastive distillation as the field's scripts run it: negatives drawn on the host, banks gathered by anchor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kd.methods.contract import Step
from kd.methods.crd import CRD, Memory, nce_loss, normaliser


class HostNegatives:
    """Draws each image's negatives by numpy, as a data set's __getitem__ does in RepDistiller.

    `labels` (N,) are those of the training images. Images of other classes are listed once for each class.
    """

    def __init__(self, labels: np.ndarray, num_classes: int, count: int) -> None:
        self.labels, self.count = labels, count
        self.others = [np.flatnonzero(labels != label) for label in range(num_classes)]

    def draw(self, position: int) -> np.ndarray:
        """Return (K,) positions of images of other classes, with replacement only where there are too few."""
        others = self.others[self.labels[position]]
        return np.random.choice(others, self.count, replace=self.count > len(others))


class GatheredCRD(CRD):
    """The same loss from B x (K + 1) gathered rows of each bank."""

    negatives: Tensor
    """(B,K) positions, set before each loss."""

    @classmethod
    def like(cls, method: CRD) -> "GatheredCRD":
        """Return it with the settings of a method."""
        return cls(method.settings, method.teachers)

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification and the contrastive loss, and remember the embeddings."""
        batch, memory = step.batch, step.extra["memory"]
        assert isinstance(memory, Memory)
        student = step.extra["student"](self.embedded(step.student))
        target = step.extra["teacher"](self.embedded(step.teacher))
        rows = torch.cat([batch.positions[:, None], self.negatives.to(batch.positions)], dim=1)
        crd = self.gathered("student", student, memory.teacher, rows, memory)
        crd = crd + self.gathered("teacher", target, memory.student, rows, memory)
        memory.remember(memory.student, batch.positions, student, self.settings.momentum)
        memory.remember(memory.teacher, batch.positions, target, self.settings.momentum)
        return {"ce": step.cross_entropy(), "crd": crd}

    def gathered(self, side: str, embedding: Tensor, bank: Tensor, rows: Tensor, memory: Memory) -> Tensor:
        """Return the loss of embeddings (B,D) against rows (B,K+1) of the other side's bank, the positive first."""
        found = bank.index_select(0, rows.flatten()).view(*rows.shape, -1)
        scores = torch.bmm(found, embedding[:, :, None]).squeeze(2) / self.settings.temperature
        positive, negative = scores[:, 0], scores[:, 1:]
        ones = torch.ones_like(negative)
        z = memory.constant(side, normaliser(positive, negative, ones, len(bank)))
        return nce_loss(positive, negative, ones, z, self.settings.negatives / len(bank))


def stacked(drawn: Sequence[np.ndarray]) -> Tensor:
    """Return (B,K) of what was drawn for each image of a batch."""
    return torch.from_numpy(np.stack(drawn))

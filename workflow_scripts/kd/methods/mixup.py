"""MixUp as relational distillation: a mixed image answers to the teacher's logits on its parts (Wilf et al. 2023).

The teacher never sees a mixed image; mixing is Zhang et al. 2018's.
"""

from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from kd.data.wants import Groups, Wants
from kd.methods.contract import Batch, Method, Step


def mixed_images(images: Tensor, shares: Tensor) -> Tensor:
    """Return one image (B,3,H,W) of each group (B,g,3,H,W), mixed by shares (g,)."""
    return torch.einsum("bgchw,g->bchw", images, shares)


def mixed_cross_entropy(logits: Tensor, labels: Tensor, shares: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the batch mean of cross-entropy of logits (B,C) with the labels (B,g) of the parts, weighted by shares."""
    own = F.log_softmax(logits, dim=1)
    true = own.gather(1, labels)  # (B,g)
    return -(shares * ((1 - smoothing) * true + smoothing * own.mean(dim=1, keepdim=True))).sum(dim=1).mean()


def mixed_distillation(
    logits: Tensor, target_logits: Tensor, shares: Tensor, loss_fn: str = "ce", temperature: float = 4.0
) -> Tensor:
    """Return the batch mean of the distances from the teacher's logits (B,g,C) on the parts, weighted by shares (B,g).

    loss_fn "ce": cross-entropy with the teacher's softmax at temperature 1. loss_fn "kl": T^2 KL(teacher || student)
    of softmaxes at temperature T. The target is detached.
    """
    t = temperature if loss_fn == "kl" else 1.0
    own = F.log_softmax(logits / t, dim=1)[:, None]
    target = F.log_softmax(target_logits.detach() / t, dim=2)
    distance = -target.exp() * own if loss_fn == "ce" else t**2 * target.exp() * (target - own)
    return (shares * distance.sum(dim=2)).sum(dim=1).mean()


class Mixup(Method):
    """Labels and teacher's logits of two images, in the shares in which they are mixed."""

    parts = 2

    def wants(self) -> Wants:
        """Want ordered groups of different images and the teacher's logits on the fixed view of them."""
        groups = Groups(self.parts, limit=self.settings.max_rel_samples)
        return Wants(groups=groups, fixed_teacher=True, live_teacher=False)

    def draw(self, side: int, generator: Generator) -> Tensor:
        """Return lambda ~ Beta(1, 1), which is uniform, and 1 - lambda."""
        lam = torch.rand((), generator=generator)
        return torch.stack([lam, 1 - lam])

    def prepare(self, batch: Batch, drawn: Tensor) -> Batch:
        """Make one image of each group; the shares are the batch's."""
        images, shares = self.mix(batch.grouped(batch.images), drawn)
        return replace(batch, images=images, shares=shares.expand(len(images), -1))

    def mix(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed images (B,3,H,W) of groups (B,g,3,H,W), and shares (g,)."""
        return mixed_images(images, drawn), drawn

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss, distillation at the temperature, and the relational loss."""
        batch, logits, settings = step.batch, step.student.logits, self.settings
        assert batch.teacher_logits is not None, "the fixed view comes with the batch"
        assert batch.shares is not None, "prepare mixes the images"
        target, labels = batch.grouped(batch.teacher_logits[0]), batch.grouped(batch.labels)
        return {
            "cls": mixed_cross_entropy(logits, labels, batch.shares, batch.label_smoothing),
            "kd": mixed_distillation(logits, target, batch.shares, "kl", settings.temperature),
            "rel": mixed_distillation(logits, target, batch.shares, settings.loss_fn, settings.temperature),
        }

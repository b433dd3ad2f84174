"""What networks make of a split: accuracies during training, logits and features afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kd.data.augment import Augmenter
from kd.data.store import ImageStore
from kd.engine.precision import Precision
from kd.engine.resolve import has_heads
from kd.engine.team import Team
from kd.methods.contract import STUDENT, Method, Stage
from kd.models.base import TappedModel


@dataclass(frozen=True)
class Predictions:
    """Logits (N,C) float32 of every image of a split in order, labels (N,), pooled features (M,D) of the first M."""

    logits: np.ndarray
    labels: np.ndarray
    features: np.ndarray


@torch.no_grad()
def accuracies(
    team: Team,
    method: Method,
    store: ImageStore,
    augmenter: Augmenter,
    precision: Precision,
    batch_size: int,
    roles: Sequence[str],
    heads: bool,
) -> dict[str, float]:
    """Return top-1 in percent for every role and head, and the student's mean loss as 'loss'.

    All modules are put in eval mode and left there: the caller enters its stage again.
    """
    for _, module in team.modules():
        module.eval()
    heads = heads and has_heads(method)
    needed = tuple(team.models) if heads else tuple(roles)
    correct: dict[str, Tensor] = {}
    loss = torch.zeros((), dtype=torch.float64, device=team.device)
    for images, labels, _ in store.batches(torch.arange(len(store)), batch_size):
        outputs = team.forward(augmenter.plain(images), precision, roles=needed)
        scored = {role: outputs[role].logits for role in roles}
        if heads:
            scored.update(method.heads(outputs, team.extra))
        for name, logits in scored.items():
            hits = (logits.argmax(1) == labels).sum()
            correct[name] = correct[name] + hits if name in correct else hits
        if STUDENT in scored:
            loss += F.cross_entropy(scored[STUDENT], labels, reduction="sum")
    found = {name: 100 * int(hits) / len(store) for name, hits in correct.items()}
    return {**found, "loss": float(loss) / len(store)} if STUDENT in roles else found


def evaluated_roles(team: Team, trained: frozenset[str]) -> list[str]:
    """Return the networks worth evaluating in a stage: those it trains, and the student."""
    return [role for role in team.models if role in trained or role == STUDENT]


def evaluates_heads(stage: Stage) -> bool:
    """Whether a stage trains what the method's own heads stand on."""
    return stage.trains_extra


@torch.no_grad()
def observations(
    team: Team, method: Method, store: ImageStore, augmenter: Augmenter, precision: Precision, batch_size: int
) -> dict[str, float]:
    """Return the means over a split of what the method observes; all modules are left in eval mode."""
    for _, module in team.modules():
        module.eval()
    sums: dict[str, Tensor] = {}
    for images, labels, _ in store.batches(torch.arange(len(store)), batch_size):
        outputs = team.forward(augmenter.plain(images), precision)
        for name, values in method.observe(outputs, labels, team.extra).items():
            total = values.double().sum()
            sums[name] = sums[name] + total if name in sums else total
    return {name: float(total) / len(store) for name, total in sums.items()}


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

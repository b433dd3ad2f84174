"""What a team makes of a split: accuracies of its networks and heads, and what its method observes."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kd.data.augment import Augmenter
from kd.data.store import ImageStore
from kd.engine.precision import Precision
from kd.engine.team import Team
from kd.methods.contract import STUDENT, Heads, Method, Observes, Outputs, Stage


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
    own = method if heads and isinstance(method, Heads) else None
    needed = tuple(team.models) if own else tuple(roles)
    correct: dict[str, Tensor] = {}
    loss = torch.zeros((), dtype=torch.float64, device=team.device)
    for images, labels, _ in store.batches(torch.arange(len(store)), batch_size):
        outputs = team.forward(augmenter.plain(images), precision, roles=needed)
        scored = {role: outputs[role].logits for role in roles}
        if own:
            scored.update(own.heads(outputs, team.extra))
        for name, logits in scored.items():
            hits = (logits.argmax(1) == labels).sum()
            correct[name] = correct[name] + hits if name in correct else hits
        if STUDENT in scored:
            loss += F.cross_entropy(scored[STUDENT], labels, reduction="sum")
    found = {name: 100 * int(hits) / len(store) for name, hits in correct.items()}
    return {**found, "loss": float(loss) / len(store)} if STUDENT in roles else found


@torch.no_grad()
def seen(
    team: Team,
    store: ImageStore,
    augmenter: Augmenter,
    precision: Precision,
    batch_size: int,
    positions: Tensor | None = None,
) -> Iterator[tuple[Outputs, Tensor, Tensor]]:
    """Yield what all networks make of a split's plain images, or of those at positions, and labels and positions (B,).

    All modules are put in eval mode and left there.
    """
    for _, module in team.modules():
        module.eval()
    for images, labels, at in store.batches(torch.arange(len(store)) if positions is None else positions, batch_size):
        yield team.forward(augmenter.plain(images), precision), labels, at


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
    """Return the means over a split of what the method observes, if it does; all modules are left in eval mode."""
    if not isinstance(method, Observes):
        return {}
    sums: dict[str, Tensor] = {}
    for outputs, labels, _ in seen(team, store, augmenter, precision, batch_size):
        for name, values in method.observe(outputs, labels, team.extra).items():
            total = values.double().sum()
            sums[name] = sums[name] + total if name in sums else total
    return {name: float(total) / len(store) for name, total in sums.items()}

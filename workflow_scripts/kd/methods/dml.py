"""Deep mutual learning: peers teach each other while they learn (Zhang et al. 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kd.data.wants import Wants
from kd.methods._divergence import softened_kl
from kd.methods.contract import STUDENT, Method, Stage, Step, Update, peer


def mutual_loss(logits: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return the mean over the other peers of the batch mean of KL(other || self) at temperature 1, logits (B,C)."""
    return torch.stack([softened_kl(logits, other, temperature=1.0) for other in others]).mean()


class DML(Method):
    """Every peer learns from labels and from the others, one update each a batch (algorithm 1 of the paper)."""

    def wants(self) -> Wants:
        """Want the peers."""
        return Wants(peers=self.settings.peers)

    def roles(self) -> tuple[str, ...]:
        """Return the student and its peers."""
        return (STUDENT, *(peer(k) for k in range(1, self.settings.peers + 1)))

    def plan(self) -> list[Stage]:
        """Return one stage with one update for each of them."""
        return [Stage("train", tuple(Update(role, (role,)) for role in self.roles()))]

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the classification loss and the mutual loss of the role that this update trains."""
        own = step.outputs[step.update].logits
        others = [step.outputs[role].logits for role in self.roles() if role != step.update]
        return {"ce": step.batch.cross_entropy(own), "mutual": mutual_loss(own, others)}

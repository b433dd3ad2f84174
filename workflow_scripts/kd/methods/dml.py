"""Deep mutual learning: peers teach each other while they learn (Zhang et al. 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.data.needs import Needs
from kd.methods.contract import STUDENT, Batch, Method, Outputs, Progress, Stage, Update, peer
from kd.methods.divergence import softened_kl


def mutual_loss(logits: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return the mean over the other peers of the batch mean of KL(other || self) at temperature 1, logits (B,C)."""
    return torch.stack([softened_kl(logits, other, temperature=1.0) for other in others]).mean()


class DML(Method):
    """Every peer learns from labels and from the others, one update each a batch (algorithm 1 of the paper)."""

    def needs(self) -> Needs:
        """Ask for the peers."""
        return Needs(peers=self.settings.peers)

    def roles(self) -> tuple[str, ...]:
        """Return the student and its peers."""
        return (STUDENT, *(peer(k) for k in range(1, self.settings.peers + 1)))

    def plan(self) -> list[Stage]:
        """Return one stage with one update for each of them."""
        return [Stage("train", tuple(Update(role, (role,)) for role in self.roles()))]

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the mutual loss of the role that this update trains."""
        own = outputs[update].logits
        others = [outputs[role].logits for role in self.roles() if role != update]
        return {"ce": batch.cross_entropy(own), "mutual": mutual_loss(own, others)}

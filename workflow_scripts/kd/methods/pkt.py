"""Probabilistic knowledge transfer: neighbourhood probabilities of a batch match (Passalis and Tefas 2018)."""

from collections.abc import Sequence

from torch import Tensor, nn

from kd.methods._features import EMBEDDING, unit
from kd.methods.tap_loss import TapLoss


def neighbourhood(embedding: Tensor) -> Tensor:
    """Return (B,B) whose rows are cosines of embeddings (B,D), moved to 0 to 1 and scaled to sum to one."""
    vectors = unit(embedding, dim=1)
    # Rounding may leave a cosine just below -1, and log would turn the probability below zero into NaN.
    closeness = ((vectors @ vectors.T + 1) / 2).clamp(min=0)
    return closeness / closeness.sum(dim=1, keepdim=True)


def pkt_loss(student: Tensor, target: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Return the mean over all B^2 entries of p_t log((p_t + epsilon) / (p_s + epsilon)) for embeddings (B,D).

    The weight 30000 belongs to this mean; a sum over rows averaged over the batch is B times as large.
    """
    p_s, p_t = neighbourhood(student), neighbourhood(target.detach())
    # One logarithm of the ratio, which is close to 1, loses far fewer digits than a difference of two.
    return (p_t * ((p_t + epsilon) / (p_s + epsilon)).log()).mean()


class PKT(TapLoss):
    """Cross-entropy and matching neighbourhoods."""

    term = "pkt"
    maps = False

    def named(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return the pooled features of both networks."""
        return (EMBEDDING,), (EMBEDDING,)

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the divergence of neighbourhoods."""
        return pkt_loss(student[0], target[0], self.settings.epsilon)

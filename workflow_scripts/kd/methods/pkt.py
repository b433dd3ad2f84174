"""Probabilistic knowledge transfer: neighbourhood probabilities of a batch match (Passalis and Tefas 2018)."""

from torch import Tensor, nn

from kd.data.needs import Needs
from kd.methods.contract import STUDENT, Batch, Method, Outputs, Progress, teacher
from kd.methods.features import unit

EMBEDDING = "embedding"


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


class PKT(Method):
    """Cross-entropy and matching neighbourhoods."""

    def needs(self) -> Needs:
        """Ask for the pooled features."""
        return Needs((EMBEDDING,), (EMBEDDING,))

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the classification loss and the divergence of neighbourhoods."""
        student, target = (outputs[role].taps[EMBEDDING] for role in (STUDENT, teacher(0)))
        return {
            "ce": batch.cross_entropy(outputs[STUDENT].logits),
            "pkt": pkt_loss(student, target, self.settings.epsilon),
        }

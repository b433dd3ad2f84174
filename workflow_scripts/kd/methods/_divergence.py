"""The softened Kullback-Leibler divergence that logit methods share."""

from torch import Tensor
from torch.nn import functional as F


def softened_kl(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """Return the batch mean of KL(q || p) for p = softmax(logits / T) and q = softmax(target_logits / T).

    Both logits are (B,C); the target is detached; nothing is scaled by T^2. Log-probabilities on both sides keep it
    finite where a softmax underflows.
    """
    own = F.log_softmax(logits / temperature, dim=1)
    target = F.log_softmax(target_logits.detach() / temperature, dim=1)
    return F.kl_div(own, target, reduction="batchmean", log_target=True)


def kl_rows(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return KL(softmax(target_logits) || softmax(logits)) of every row, (B,); the target is detached."""
    own = F.log_softmax(logits, dim=1)
    target = F.log_softmax(target_logits.detach(), dim=1)
    return F.kl_div(own, target, reduction="none", log_target=True).sum(dim=1)

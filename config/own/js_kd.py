"""Distillation by the Jensen-Shannon divergence, which treats teacher and student alike."""

from torch import Tensor

from kd.methods.logit_loss import LogitLoss


def js_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return the batch mean of the divergence of two rows of probabilities (B,C), in nats."""
    middle = ((first + second) / 2).clamp_min(1e-12).log()
    kl = [(p * (p.clamp_min(1e-12).log() - middle)).sum(dim=1) for p in (first, second)]
    return (kl[0] + kl[1]).mean() / 2


class JSKD(LogitLoss):
    """Cross-entropy and the divergence of softened probabilities."""

    term = "js"

    def compare(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the divergence of the two at temperature T, times T^2."""
        t = self.settings.temperature
        return t**2 * js_divergence((target / t).softmax(dim=1), (student / t).softmax(dim=1))

"""Distillation by the Jensen-Shannon divergence, which treats teacher and student alike."""

from torch import Tensor, nn

from kd.methods.contract import STUDENT, Batch, Method, Outputs, Progress, teacher


def js_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return the batch mean of the divergence of two rows of probabilities (B,C), in nats."""
    middle = ((first + second) / 2).clamp_min(1e-12).log()
    kl = [(p * (p.clamp_min(1e-12).log() - middle)).sum(dim=1) for p in (first, second)]
    return (kl[0] + kl[1]).mean() / 2


class JSKD(Method):
    """Cross-entropy and the divergence of softened probabilities."""

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return both terms."""
        t = self.settings.temperature
        student, target = ((outputs[role].logits / t).softmax(dim=1) for role in (STUDENT, teacher(0)))
        return {"ce": batch.cross_entropy(outputs[STUDENT].logits), "js": t**2 * js_divergence(target, student)}

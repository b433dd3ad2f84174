"""Ablation of CKD: the two sides of a group are averaged instead of subtracted (Wilf et al. 2023)."""

from torch import Tensor

from kd.methods.ckd import CKD, side_means
from kd.methods.contract import Batch


class CKDAdd(CKD):
    """CKD with half of one side plus half of the other, for logits and labels alike."""

    def compared(self, values: Tensor, batch: Batch) -> Tensor:
        """Return the mean of both sides' means, (B,C)."""
        first, second = side_means(values, self.positives)
        return (first + second) / 2

"""Flow of solution procedure: Gram matrices between the ends of stages match (Yim et al. 2017)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._features import pool_match, require_equal_channels
from kd.methods._features_first import FeaturesFirst
from kd.methods.contract import Context


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean over positions of products of channels (B,C1,C2) of maps, the larger pooled to the smaller."""
    one, two = (feature.flatten(2) for feature in pool_match(first, second))
    return one @ two.transpose(1, 2) / one.shape[2]


def fsp_loss(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of flow matrices, summed over neighbouring taps (equation 2 of the paper).

    Maps are (B,C,H,W); those of one tap have as many channels in both networks.
    """
    assert len(student_feats) == len(teacher_feats), "one tap of the student for each of the teacher"
    total = student_feats[0].new_zeros(())
    for (s1, s2), (t1, t2) in zip(pairwise(student_feats), pairwise(teacher_feats), strict=True):
        total = total + F.mse_loss(flow(s1, s2), flow(t1.detach(), t2.detach()))
    return total


class FSP(FeaturesFirst):
    """Flow matrices first, which train the student's features alone; then cross-entropy, if asked for with KD."""

    term = "fsp"

    def build(self, context: Context) -> nn.ModuleDict:
        """Check that the maps have equal channels; flow matrices need no modules."""
        require_equal_channels(self.name, context)
        return nn.ModuleDict()

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the flow loss."""
        return fsp_loss(student, target)

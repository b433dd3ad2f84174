"""Gate-MBM: a convex mix of the teachers, channel by channel, into a Gaussian bottleneck."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.asib.fusions.base import Fused, Fusion, GaussianCode


class GateMBM(Fusion):
    """Every embedding is brought to the largest width by a map of its own; one gate a channel, shared by all images.

    With two teachers the gate is sigmoid(gamma) for the first and the rest for the second; with K it is the softmax of
    K - 1 learned values and a zero. Gates start equal.
    """

    bottleneck = True

    def __init__(
        self,
        widths: Sequence[int],
        width: int,
        dropout: float = 0.1,
        logvar_clip: float | None = None,
        min_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.width = width
        channels = max(widths)
        # a 1x1 convolution of a map of one pixel is a linear map
        self.maps = nn.ModuleList(nn.Linear(own, channels) for own in widths)
        self.gamma = nn.Parameter(torch.zeros(len(widths) - 1, channels))
        self.dropout = nn.Dropout(dropout)
        self.code = GaussianCode(channels, width, logvar_clip, min_std)

    def gates(self) -> Tensor:
        """Return the share (K,c) of every teacher in every channel."""
        last = self.gamma.new_zeros(1, self.gamma.shape[1])
        return torch.cat([self.gamma, last]).softmax(dim=0)

    def forward(
        self, query: Tensor, embeddings: Sequence[Tensor], maps: Sequence[Tensor] = (), sample: bool = True
    ) -> Fused:
        """Fuse embeddings (B,d_k)."""
        mapped = torch.stack([own(embedding) for own, embedding in zip(self.maps, embeddings, strict=True)])
        mixed = (self.gates()[:, None, :] * mapped).sum(dim=0)
        z, mu, logvar = self.code(self.dropout(mixed), sample)
        return Fused(z, mu, logvar)

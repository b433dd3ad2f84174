"""VIB-MBM: all embeddings side by side, straight into a Gaussian bottleneck."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kd.asib.fusions.base import Fused, Fusion, GaussianCode


class VIBMBM(Fusion):
    """A variational bottleneck of the concatenated embeddings; the student takes no part."""

    bottleneck = True

    def __init__(
        self, widths: Sequence[int], width: int, logvar_clip: float | None = 5.0, min_std: float = 0.0
    ) -> None:
        super().__init__()
        self.width = width
        self.code = GaussianCode(sum(widths), width, logvar_clip, min_std)

    def forward(
        self, query: Tensor, embeddings: Sequence[Tensor], maps: Sequence[Tensor] = (), sample: bool = True
    ) -> Fused:
        """Fuse embeddings (B,d_k)."""
        z, mu, logvar = self.code(torch.cat(list(embeddings), dim=1), sample)
        return Fused(z, mu, logvar)

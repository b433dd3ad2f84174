"""IB-MBM: the student asks, the teachers answer, and a Gaussian bottleneck passes on what matters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.asib.fusions.base import Fused, Fusion, Tokens, code_of


class IBMBM(Fusion):
    """Cross-attention of the student's embedding over one token a teacher, then mean and log-variance of the code.

    LayerNorm acts on query, tokens and, around a residual, on the answer. Tokens serve as keys and as values.
    """

    asks = True
    bottleneck = True

    def __init__(
        self,
        query_dim: int,
        widths: Sequence[int],
        width: int,
        n_heads: int,
        logvar_clip: float | None = 10.0,
        min_std: float = 1e-4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width = width
        self.logvar_clip, self.min_std = logvar_clip, min_std
        self.align = Tokens(widths)
        self.q_proj = nn.Linear(query_dim, width)
        self.kv_proj = nn.Linear(self.align.width, width)
        self.q_norm = nn.LayerNorm(width)
        self.kv_norm = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, n_heads, dropout=dropout, batch_first=True)
        self.out_norm = nn.LayerNorm(width)
        self.mu = nn.Linear(width, width)
        self.logvar = nn.Linear(width, width)

    def project_query(self, query: Tensor) -> Tensor:
        """Return the student's embedding (B,q) in the space of the code, (B,D)."""
        return self.q_norm(self.q_proj(query))

    def forward(
        self, query: Tensor, embeddings: Sequence[Tensor], maps: Sequence[Tensor] = (), sample: bool = True
    ) -> Fused:
        """Fuse embeddings (B,d_k) for students (B,q); the code is a sample only in training mode with `sample`."""
        asked = self.project_query(query)
        q, kv = asked.unsqueeze(1), self.kv_norm(self.kv_proj(self.align(embeddings)))
        # asking for the weights switches to another kernel, which training need not pay for
        attended, weights = self.attn(q, kv, kv, need_weights=not self.training)
        h = self.out_norm(attended + q).squeeze(1)
        z, mu, logvar = code_of(self.mu(h), self.logvar(h), self.logvar_clip, self.min_std, sample and self.training)
        return Fused(z, mu, logvar, asked, mu, None if weights is None else torch.squeeze(weights, 1))

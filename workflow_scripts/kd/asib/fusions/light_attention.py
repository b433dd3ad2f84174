"""LA-MBM, lightweight attention: the student, or one learned token, asks the teachers in a narrow space."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.asib.fusions.base import Fused, Fusion


class LightweightAttnMBM(Fusion):
    """Attention in max(1, width // reduction) dimensions with keys and values of each teacher's own.

    The query is the projected student or, with `learnable_query`, one token for all images that starts at zero; then
    the student takes no part.
    """

    def __init__(
        self,
        query_dim: int,
        widths: Sequence[int],
        width: int,
        n_heads: int = 1,
        reduction: int = 4,
        learnable_query: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.asks = width, not learnable_query
        narrow = max(1, width // reduction)
        self.q_proj = None if learnable_query else nn.Linear(query_dim, narrow)
        self.token = nn.Parameter(torch.zeros(1, 1, narrow)) if learnable_query else None
        self.k_proj = nn.ModuleList(nn.Linear(own, narrow) for own in widths)
        self.v_proj = nn.ModuleList(nn.Linear(own, narrow) for own in widths)
        self.attn = nn.MultiheadAttention(narrow, n_heads, dropout=dropout, batch_first=True)
        self.out = nn.Linear(narrow, width)

    def project_query(self, query: Tensor) -> Tensor:
        """Return the query (B,narrow) of students (B,q): their own, or the learned token for each."""
        if self.q_proj is not None:
            return self.q_proj(query)
        assert self.token is not None, "either the student asks or the token does"
        return self.token[0].expand(len(query), -1)

    def forward(
        self, query: Tensor, embeddings: Sequence[Tensor], maps: Sequence[Tensor] = (), sample: bool = True
    ) -> Fused:
        """Fuse embeddings (B,d_k) for students (B,q)."""
        asked = self.project_query(query)
        keys = torch.stack([own(e) for own, e in zip(self.k_proj, embeddings, strict=True)], dim=1)
        values = torch.stack([own(e) for own, e in zip(self.v_proj, embeddings, strict=True)], dim=1)
        answer, weights = self.attn(asked.unsqueeze(1), keys, values)
        answer = answer.squeeze(1)
        z = self.out(answer)
        return Fused(z, z, None, asked, answer, weights.squeeze(1))

"""The information-bottleneck fusion of teacher embeddings (IB-MBM), its adapters and the synergy head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Bottleneck:
    """What a fusion module makes of a batch: the code z and the diagonal Gaussian it comes from, each (B,D)."""

    z: Tensor
    mu: Tensor
    logvar: Tensor


class IBMBM(nn.Module):
    """Manifold-bridging module with an information bottleneck.

    The student's embedding asks, one token a teacher answers (cross-attention with a residual around it, LayerNorm on
    query, tokens and sum), and two linear maps give mean and log-variance of the code.
    """

    def __init__(
        self,
        query_dim: int,
        token_dim: int,
        embed_dim: int,
        n_heads: int,
        logvar_clip: float = 10.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.logvar_clip = logvar_clip
        self.q_proj = nn.Linear(query_dim, embed_dim)
        self.kv_proj = nn.Linear(token_dim, embed_dim)
        self.q_norm = nn.LayerNorm(embed_dim)
        self.kv_norm = nn.LayerNorm(embed_dim)
        self.attn = nn.MultiheadAttention(embed_dim, n_heads, dropout=dropout, batch_first=True)
        self.out_norm = nn.LayerNorm(embed_dim)
        self.mu = nn.Linear(embed_dim, embed_dim)
        self.logvar = nn.Linear(embed_dim, embed_dim)

    def project_query(self, query: Tensor) -> Tensor:
        """Return the student's embedding (B,Q) in the space of the code, (B,D)."""
        return self.q_norm(self.q_proj(query))

    def forward(self, query: Tensor, tokens: Tensor, sample: bool = True) -> Bottleneck:
        """Fuse tokens (B,K,T) for queries (B,Q); z is a sample only in training mode with `sample`, else the mean."""
        q = self.project_query(query).unsqueeze(1)
        kv = self.kv_norm(self.kv_proj(tokens))
        attended, _ = self.attn(q, kv, kv, need_weights=False)
        h = self.out_norm(attended + q).squeeze(1)
        mu = self.mu(h)
        logvar = self.logvar(h).clamp(-self.logvar_clip, self.logvar_clip)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(mu) if sample and self.training else mu
        return Bottleneck(z, mu, logvar)


class SynergyHead(nn.Module):
    """Classifier of the code: LayerNorm, GELU, Dropout, Linear."""

    def __init__(self, embed_dim: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(embed_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(embed_dim, num_classes)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return synergy logits (B,C) of codes (B,D)."""
        return self.net(z)


class TeacherAdapters(nn.ModuleList):
    """Bring embeddings of K teachers to one width: a linear map a teacher, or nothing where they agree already."""

    def __init__(self, widths: Sequence[int], adapter_dim: int | None = None) -> None:
        adapted = adapter_dim is not None or len(set(widths)) > 1
        self.width = adapter_dim or max(widths)
        super().__init__(nn.Linear(width, self.width) for width in widths if adapted)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return tokens (B,K,width) of embeddings (B,d_k)."""
        if len(self):
            embeddings = [adapter(embedding) for adapter, embedding in zip(self, embeddings, strict=True)]
        return torch.stack(list(embeddings), dim=1)

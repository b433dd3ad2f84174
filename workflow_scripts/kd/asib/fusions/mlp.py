"""MLP-MBM, the manifold-bridging module: the mean of up to three paths from the teachers to one code."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.asib.fusions.base import Fused, Fusion
from kd.methods._features import pool_to


class MapPath(nn.Module):
    """Last maps side by side, 1x1 and 3x3 convolutions with ReLU, average over positions, linear."""

    def __init__(self, channels: Sequence[int], hidden: int, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(sum(channels), hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU()
        )
        self.out = nn.Linear(hidden, width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B,D) of maps (B,C_k,H_k,W_k), averaged to the smallest size among them."""
        size = (min(m.shape[2] for m in maps), min(m.shape[3] for m in maps))
        return self.out(self.convs(torch.cat([pool_to(m, size) for m in maps], dim=1)).mean(dim=(2, 3)))


class AttentionPath(nn.Module):
    """One token a teacher, self-attention, mean over tokens."""

    def __init__(self, widths: Sequence[int], width: int, n_heads: int) -> None:
        super().__init__()
        self.tokens = nn.ModuleList(nn.Linear(own, width) for own in widths)
        self.attn = nn.MultiheadAttention(width, n_heads, batch_first=True)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return (B,D) of embeddings (B,d_k)."""
        tokens = torch.stack([own(embedding) for own, embedding in zip(self.tokens, embeddings, strict=True)], dim=1)
        return self.attn(tokens, tokens, tokens, need_weights=False)[0].mean(dim=1)


class MLPMBM(Fusion):
    """The mean of the active paths: embeddings through an MLP always, maps and attention where asked for."""

    def __init__(
        self,
        widths: Sequence[int],
        width: int,
        hidden: int = 512,
        dropout: float = 0.0,
        channels: Sequence[int] = (),
        map_hidden: int | None = None,
        attention_heads: int = 0,
    ) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(
            nn.Linear(sum(widths), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )
        self.of_maps = MapPath(channels, map_hidden or width, width) if channels else None
        self.attention = AttentionPath(widths, width, attention_heads) if attention_heads else None

    def forward(
        self, query: Tensor, embeddings: Sequence[Tensor], maps: Sequence[Tensor] = (), sample: bool = True
    ) -> Fused:
        """Fuse embeddings (B,d_k), and maps (B,C_k,H_k,W_k) where that path is active."""
        paths = [self.mlp(torch.cat(list(embeddings), dim=1))]
        if self.of_maps is not None:
            paths.append(self.of_maps(maps))
        if self.attention is not None:
            paths.append(self.attention(embeddings))
        z = torch.stack(paths).mean(dim=0)
        return Fused(z, z)

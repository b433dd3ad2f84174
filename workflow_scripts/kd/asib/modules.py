"""What stands around the fusion: adapters of the teachers' embeddings, the synergy head, the student's projection."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.methods._features import unit


class SynergyHead(nn.Module):
    """Classifier of the code: LayerNorm, GELU, Dropout, Linear, with a temperature that may be learned."""

    def __init__(self, width: int, num_classes: int, dropout: float = 0.0, learnable_temperature: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, num_classes))
        self.log_temperature = nn.Parameter(torch.zeros(())) if learnable_temperature else None

    def forward(self, z: Tensor) -> Tensor:
        """Return synergy logits (B,C) of codes (B,D), over the temperature where there is one (1 at the start)."""
        logits = self.net(z)
        return logits if self.log_temperature is None else logits * torch.exp(-self.log_temperature)


class DistillationAdapters(nn.ModuleList):
    """A two-layer map of each teacher's embedding, d to hidden to out: by default d to d/2 to d/4."""

    def __init__(self, widths: Sequence[int], hidden: int | None = None, out: int | None = None) -> None:
        self.widths = [out or max(1, width // 4) for width in widths]
        layers = zip(widths, self.widths, strict=True)
        super().__init__(
            nn.Sequential(
                nn.Linear(width, hidden or max(1, width // 2)), nn.ReLU(), nn.Linear(hidden or max(1, width // 2), own)
            )
            for width, own in layers
        )

    def forward(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Return (B,out_k) of embeddings (B,d_k)."""
        return [adapter(embedding) for adapter, embedding in zip(self, embeddings, strict=True)]


class StudentProjection(nn.Module):
    """The student's embedding in the space of the code: one linear map or two, optional BatchNorm and unit length.

    normalize: 'input' scales what comes in to length one, 'output' what goes out.
    """

    def __init__(
        self, inputs: int, width: int, hidden: int | None = None, batch_norm: bool = False, normalize: str = "none"
    ) -> None:
        super().__init__()
        self.normalize = normalize
        layers: list[nn.Module] = []
        if hidden is not None:
            layers += [nn.Linear(inputs, hidden), *([nn.BatchNorm1d(hidden)] if batch_norm else []), nn.ReLU()]
        layers += [nn.Linear(hidden or inputs, width), *([nn.BatchNorm1d(width)] if batch_norm else [])]
        self.net = nn.Sequential(*layers)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return (B,D) of embeddings (B,d)."""
        seen = unit(embedding, dim=1) if self.normalize == "input" else embedding
        projected = self.net(seen)
        return unit(projected, dim=1) if self.normalize == "output" else projected

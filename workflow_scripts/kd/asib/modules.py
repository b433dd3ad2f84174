"""What stands around the fusion: adapters of the teachers' embeddings, the synergy head, the student's projection."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.methods._features import unit


class SynergyHead(nn.Module):
    """Classifier of the code: LayerNorm, GELU, Dropout, Linear, with a temperature that may be learned.

    A `residual` one adds to logits that are there already, and at the start nothing: its last layer is zero. A
    `scaled` one keeps, as `scale`, what its logits are divided by when they are a target.
    """

    scale: Tensor | None

    def __init__(
        self,
        width: int,
        num_classes: int,
        dropout: float = 0.0,
        learnable_temperature: bool = False,
        residual: bool = False,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        last = nn.Linear(width, num_classes)
        self.net = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout), last)
        if residual:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.log_temperature = nn.Parameter(torch.zeros(())) if learnable_temperature else None
        self.register_buffer("scale", torch.ones(()) if scaled else None)

    def restart(self) -> bool:
        """Let a residual head add nothing again; False where it adds nothing yet."""
        last = list(self.net[-1].parameters())
        adds = any(bool(parameter.any()) for parameter in last)
        for parameter in last:
            nn.init.zeros_(parameter)
        return adds

    def forward(self, z: Tensor, base: Tensor | None = None) -> Tensor:
        """Return synergy logits (B,C) of codes (B,D), over the temperature where there is one (1 at the start).

        `base` (B,C) are the logits that a residual head adds to.
        """
        logits = self.net(z) if base is None else base + self.net(z)
        return logits if self.log_temperature is None else logits * torch.exp(-self.log_temperature)

    def scaled(self, logits: Tensor) -> Tensor:
        """Return synergy logits (B,C) as a target."""
        return logits if self.scale is None else logits / self.scale

    def rescale(self, scale: Tensor) -> None:
        """Keep what logits of a target are divided by from now on."""
        assert self.scale is not None, "a head of scaled targets"
        self.scale.copy_(scale)


class Parts(nn.Module):
    """Two parts of the training images, drawn from torch's generator, each with its share of every class.

    `first` (N,) says of the image at each position whether it is in the first part, which has a `share` of all.
    """

    first: Tensor

    def __init__(self, labels: Tensor, share: float) -> None:
        super().__init__()
        labels = labels.cpu()
        drawn = torch.randperm(len(labels))
        shuffled = drawn[labels[drawn].argsort(stable=True)]
        counted = torch.floor(torch.arange(len(labels) + 1, dtype=torch.float64) * share)
        first = torch.empty(len(labels), dtype=torch.bool)
        first[shuffled] = counted.diff() > 0
        self.register_buffer("first", first)


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

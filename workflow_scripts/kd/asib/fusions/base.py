"""What every fusion module makes of the teachers' features, and the Gaussian bottleneck that three of them share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Fused:
    """What a fusion module makes of a batch.

    z (B,D) is what the synergy head reads; mu and logvar (B,D) are the Gaussian that it comes from, mu is z and logvar
    None where the module has no bottleneck. `query` and `answer`, where there is one, are the projected student and
    what it is compared with in the query's own space.
    """

    z: Tensor
    mu: Tensor
    logvar: Tensor | None = None
    query: Tensor | None = None
    answer: Tensor | None = None
    attention: Tensor | None = None
    """(B,K) weights of the teachers, averaged over heads."""

    def merged(self, other: "Fused", merge: Callable[[Tensor, Tensor], Tensor]) -> "Fused":
        """Return what another fusion of the same kind made of the same batch, merged with this."""
        merged = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return replace(self, **{name: merge(*pair) for name, pair in merged.items() if pair[0] is not None})


class Fusion(nn.Module):
    """Fuses K teachers' embeddings into one code of `width` values.

    `asks` says whether the student's embedding takes part, `bottleneck` whether the code is drawn from a Gaussian.
    """

    width: int
    asks = False
    bottleneck = False

    def forward(
        self, query: Tensor, embeddings: Sequence[Tensor], maps: Sequence[Tensor] = (), sample: bool = True
    ) -> Fused:
        """Fuse embeddings (B,d_k), and maps (B,C_k,H,W) where the module reads them, for students (B,q)."""
        raise NotImplementedError

    def project_query(self, query: Tensor) -> Tensor:
        """Return the student's embedding (B,q) in the space in which it asks."""
        raise NotImplementedError


class GaussianCode(nn.Module):
    """Two linear maps to the mean and the log-variance of a diagonal Gaussian, and a reparametrised draw from it."""

    def __init__(self, inputs: int, width: int, logvar_clip: float | None, min_std: float = 0.0) -> None:
        super().__init__()
        self.logvar_clip, self.min_std = logvar_clip, min_std
        self.mu = nn.Linear(inputs, width)
        self.logvar = nn.Linear(inputs, width)

    def forward(self, h: Tensor, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return code, mean and log-variance (B,D) of hidden values (B,h)."""
        return code_of(self.mu(h), self.logvar(h), self.logvar_clip, self.min_std, sample and self.training)


def code_of(
    mu: Tensor, logvar: Tensor, logvar_clip: float | None, min_std: float, sample: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (z, mu, clipped logvar): z = mu + max(exp(logvar / 2), min_std) * noise, or the mean if not sampled."""
    if logvar_clip is not None:
        logvar = logvar.clamp(-logvar_clip, logvar_clip)
    if not sample:
        return mu, mu, logvar
    return mu + torch.exp(logvar / 2).clamp(min=min_std) * torch.randn_like(mu), mu, logvar


class Tokens(nn.ModuleList):
    """Bring K embeddings to one width: a linear map a teacher, or nothing where they agree already."""

    def __init__(self, widths: Sequence[int]) -> None:
        self.width = max(widths)
        super().__init__(nn.Linear(width, self.width) for width in widths if len(set(widths)) > 1)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return tokens (B,K,width) of embeddings (B,d_k)."""
        if len(self):
            embeddings = [linear(embedding) for linear, embedding in zip(self, embeddings, strict=True)]
        return torch.stack(list(embeddings), dim=1)

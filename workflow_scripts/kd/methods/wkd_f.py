"""WKD-F: channels as Gaussians over space, compared by their Wasserstein distance (Lv, Yang and Li 2024)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from kd.methods._connectors import TapPair, connected, tap_pairs
from kd.methods._decay import cosine_share
from kd.methods._features import pool_match
from kd.methods.contract import Context, Progress
from kd.methods.tap_loss import TapLoss

HIDDEN = 256
"""Channels within the bottleneck, as released."""


def cells(size: int, count: int) -> Iterator[slice]:
    """Yield the bins in which adaptive pooling cuts a side of `size` pixels; they overlap where it does not divide."""
    for k in range(count):
        yield slice(k * size // count, -(-(k + 1) * size // count))


def cell_moments(feature: Tensor, grid: int, eps: float) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations (B,C,grid*grid) over the cells of a grid, of maps (B,C,H,W).

    The variance is the unbiased one, with eps added before the root; that of a cell of one pixel is 0.
    """
    means, deviations = [], []
    for rows in cells(feature.shape[2], grid):
        for columns in cells(feature.shape[3], grid):
            cell = feature[:, :, rows, columns]
            several = int(cell.shape[2] * cell.shape[3] > 1)
            variance, mean = torch.var_mean(cell, dim=(2, 3), correction=several)
            means.append(mean)
            deviations.append((variance + eps).sqrt())
    return torch.stack(means, dim=2), torch.stack(deviations, dim=2)


def wkd_f_loss(
    student: Tensor, target: Tensor, mean_std_ratio: float = 4.0, grid: int = 1, eps: float = 1e-5
) -> Tensor:
    """Return ratio * |mu_s - mu_t|^2 + |sigma_s - sigma_t|^2, summed over channels, averaged over cells and images.

    Maps (B,C,H,W) have the same number of channels. It is the squared Wasserstein distance of Gaussians with diagonal
    covariance, with a weight of its own for the means (equation 8 of the paper).
    """
    own, known = cell_moments(student, grid, eps), cell_moments(target.detach(), grid, eps)
    mean, deviation = ((s - t).square().sum() for s, t in zip(own, known, strict=True))
    return (mean_std_ratio * mean + deviation) / (len(student) * grid**2)


def bottleneck(pair: TapPair, rectify: bool) -> nn.Sequential:
    """Return 1x1, 3x3 and 1x1 convolutions with one BatchNorm behind the last, from student to teacher channels.

    There is no activation in between, as released. The 3x3 one is strided where the student's maps are twice as large,
    and stands behind a transposed one where they are half as large.
    """
    (inputs, *s), (outputs, *t) = pair.student, pair.target
    stride = 2 if s == [2 * side for side in t] else 1
    layers: list[nn.Module] = [nn.Conv2d(inputs, HIDDEN, 1)]
    if t == [2 * side for side in s]:
        layers.append(nn.ConvTranspose2d(HIDDEN, HIDDEN, 4, stride=2, padding=1))
    layers += [nn.Conv2d(HIDDEN, HIDDEN, 3, stride, padding=1), nn.Conv2d(HIDDEN, outputs, 1), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU()) if rectify else nn.Sequential(*layers)


class WKDF(TapLoss):
    """Cross-entropy and the distance of channels as Gaussians, whose weight falls in the end."""

    term = "wkd_f"

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one connector a pair of taps."""
        rectify = self.settings.rectify
        plain = self.settings.connector == "conv1x1"
        connectors = [
            pair.regressor(rectify) if plain else bottleneck(pair, rectify) for pair in tap_pairs(self.name, context)
        ]
        return nn.ModuleDict({"connectors": nn.ModuleList(connectors)})

    def compare(self, student: Sequence[Tensor], target: Sequence[Tensor], extra: nn.ModuleDict) -> Tensor:
        """Return the distances of all taps; of maps of different size the larger is pooled to the smaller."""
        settings = self.settings
        pairs = zip(connected(extra["connectors"], student), target, strict=True)
        found = [wkd_f_loss(*pool_match(s, t), settings.mean_std_ratio, settings.grid, settings.eps) for s, t in pairs]
        return torch.stack(found).sum()

    def weight(self, term: str, progress: Progress) -> float:
        """Let the weight of the distance fall to 0 along half a cosine."""
        full = super().weight(term, progress)
        return full * cosine_share(progress, self.settings.decay_from) if term == self.term else full
